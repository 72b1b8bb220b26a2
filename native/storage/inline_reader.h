// Reads on the thread that starts it, before start() returns: for a load of one read, threads would cost more than the
// read itself.
#pragma once

#include <memory>

#include "storage/reader.h"
#include "storage/thread_pool_reader.h"

namespace weightstream {

[[nodiscard]] std::unique_ptr<Reader> make_inline_reader(std::unique_ptr<BlockingRead> read);

}  // namespace weightstream
