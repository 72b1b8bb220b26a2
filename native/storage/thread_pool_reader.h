// Reads local files by a pool of threads, each with one blocking read: the page cache, tmpfs, network filesystems.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/result.h"
#include "storage/reader.h"

namespace weightstream {

// How one request is executed. Called by several threads at once.
class BlockingRead {
 public:
  virtual ~BlockingRead() = default;
  // Long reads look at `stopping` now and then and fail with kClosed when it is set.
  virtual Result<ReadEffort> execute(const ReadRequest& request, const std::atomic<bool>& stopping) = 0;
};

// What a read says that was stopped.
[[nodiscard]] Error stopped_read(const ReadRequest& request);

// pread(2) into place.
[[nodiscard]] std::unique_ptr<BlockingRead> make_pread();
// For memory that maps the file: brings in the pages that the page cache does not have (madvise MADV_POPULATE_READ), so
// that touching them later does not wait for the storage.
[[nodiscard]] std::unique_ptr<BlockingRead> make_populate();

struct ThreadPoolOptions {
  std::uint32_t start_concurrency = 2;  // reads in flight at first
  std::uint32_t most_concurrency = 32;
  const char* thread_name = "ws-pread";
};

// Requests must be of LocalFile sources.
[[nodiscard]] std::unique_ptr<Reader> make_thread_pool_reader(std::unique_ptr<BlockingRead> read,
                                                              ThreadPoolOptions options);

}  // namespace weightstream
