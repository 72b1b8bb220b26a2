#include "engine/readers.h"

#include <sys/resource.h>

#include <algorithm>
#include <thread>
#include <utility>
#include <vector>

#include "engine/gds_reader.h"
#include "storage/http_reader.h"
#include "storage/inline_reader.h"
#include "storage/reader_group.h"
#include "storage/thread_pool_reader.h"
#include "storage/uring_reader.h"

namespace weightstream {
namespace {

constexpr std::uint32_t kMostRings = 4;

// A read in flight may hold two descriptors of a file of its own: a checkpoint of many small files must not run out.
std::uint32_t most_by_descriptors() {
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 8;
  return static_cast<std::uint32_t>(std::clamp<rlim_t>(limit.rlim_cur / 8, 1, 1024));
}

}  // namespace

const char* name(ReaderKind kind) {
  switch (kind) {
    case ReaderKind::kUring:
      return "uring";
    case ReaderKind::kPread:
      return "pread";
    case ReaderKind::kMmap:
      return "mmap";
    case ReaderKind::kInline:
      return "inline";
    case ReaderKind::kHttp:
      return "http";
    case ReaderKind::kGds:
      return "gds";
  }
  return "";
}

std::unique_ptr<Reader> make_reader(ReaderKind kind, const ReaderContext& context) {
  const std::uint32_t concurrency = context.concurrency;
  if (kind == ReaderKind::kHttp) {
    HttpReaderOptions options;
    options.most_concurrency =
        concurrency > 0 ? concurrency : std::min(options.most_concurrency, most_by_descriptors());
    if (context.host != nullptr && context.host->remembered() > 0) {
      options.start_concurrency = context.host->remembered();
    }
    return make_http_reader(options, *context.connections, context.host, context.log);
  }
  const auto cores = std::max(std::thread::hardware_concurrency(), 1U);
  if (kind == ReaderKind::kUring) {
    // One thread keeps any device busy, but it is also the one that touches the memory first. Where that is slow (a
    // virtual machine that gets its memory from the host as it goes) several share the work.
    const auto rings = std::min({cores, kMostRings, concurrency > 0 ? concurrency : kMostRings});
    std::vector<std::unique_ptr<Reader>> readers;
    for (std::uint32_t ring = 0; ring < rings; ++ring) {
      UringOptions options;
      options.heeds_others = context.heeds_others;
      options.most_concurrency = std::max(std::min(options.most_concurrency, most_by_descriptors()) / rings, 1U);
      options.start_concurrency = std::min(options.start_concurrency / rings, options.most_concurrency);
      if (concurrency > 0) {
        options.start_concurrency = options.most_concurrency = (concurrency + ring) / rings;
      }
      readers.push_back(make_uring_reader(std::move(options), context.log));
    }
    return make_reader_group(std::move(readers));
  }
  if (kind == ReaderKind::kGds) return make_gds_reader(context.accelerator, context.cufile, concurrency);
  if (kind == ReaderKind::kInline) return make_inline_reader(make_pread());
  ThreadPoolOptions options;
  // Enough to fill the cores with copies from the page cache; storage with latency makes the pool grow.
  options.start_concurrency = std::clamp(cores, 2U, 16U);
  options.most_concurrency = std::min(std::max(options.start_concurrency, 32U), most_by_descriptors());
  options.start_concurrency = std::min(options.start_concurrency, options.most_concurrency);
  if (concurrency > 0) options.start_concurrency = options.most_concurrency = concurrency;
  return make_thread_pool_reader(kind == ReaderKind::kMmap ? make_populate() : make_pread(), options);
}

}  // namespace weightstream
