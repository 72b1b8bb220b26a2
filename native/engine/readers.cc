#include "engine/readers.h"

#include <algorithm>
#include <thread>

#include "storage/thread_pool_reader.h"
#include "storage/uring_reader.h"

namespace weightstream {

const char* name(ReaderKind kind) {
  switch (kind) {
    case ReaderKind::kUring:
      return "uring";
    case ReaderKind::kPread:
      return "pread";
    case ReaderKind::kMmap:
      return "mmap";
  }
  return "";
}

std::unique_ptr<Reader> make_reader(ReaderKind kind, std::uint32_t concurrency, LogSink& log) {
  if (kind == ReaderKind::kUring) {
    UringOptions options;
    if (concurrency > 0) options.start_concurrency = options.most_concurrency = concurrency;
    return make_uring_reader(std::move(options), log);
  }
  const auto cores = std::max(std::thread::hardware_concurrency(), 1U);
  ThreadPoolOptions options;
  // Enough to fill the cores with copies from the page cache; storage with latency makes the pool grow.
  options.start_concurrency = std::clamp(cores, 2U, 16U);
  options.most_concurrency = std::max(options.start_concurrency, 32U);
  if (concurrency > 0) options.start_concurrency = options.most_concurrency = concurrency;
  return make_thread_pool_reader(kind == ReaderKind::kMmap ? make_populate() : make_pread(), options);
}

}  // namespace weightstream
