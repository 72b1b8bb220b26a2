// Several readers that work as one: each pulls from the same feed on threads of its own.
#pragma once

#include <memory>
#include <vector>

#include "storage/reader.h"

namespace weightstream {

// A group starts as long as one of its readers does.
[[nodiscard]] std::unique_ptr<Reader> make_reader_group(std::vector<std::unique_ptr<Reader>> readers);

}  // namespace weightstream
