// Reads local files through io_uring with O_DIRECT: a deep queue kept full by one thread, no page cache, no copy. A
// file that others read at the same time goes through the page cache, see reading_mark.h.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/log.h"
#include "base/result.h"
#include "storage/io_ring.h"
#include "storage/reader.h"

namespace weightstream {

struct UringOptions {
  std::uint32_t start_concurrency = 16;  // reads in flight at first
  std::uint32_t most_concurrency = 64;
  bool heeds_others = false;  // marks what it reads, and looks for marks
  // Where the ring comes from; tests put faults here.
  std::function<Result<std::unique_ptr<IoRing>>(std::uint32_t entries)> create_ring = IoRing::create;
};

// Requests must be of LocalFile sources. `log` outlives the reader.
[[nodiscard]] std::unique_ptr<Reader> make_uring_reader(UringOptions options, LogSink& log);

}  // namespace weightstream
