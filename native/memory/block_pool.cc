#include "memory/block_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "memory/arena.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace weightstream {

std::uint64_t BlockPool::keep(std::shared_ptr<Arena> arena, ByteRange dead) {
  const std::lock_guard lock(mutex_);
  const auto room = align_down(most_bytes_ - std::min(most_bytes_, kept_bytes_), Arena::kBlockBytes);
  const auto bytes = std::min(dead.size(), room);
  if (bytes == 0) return 0;
  kept_bytes_ += bytes;
  runs_.push_back({std::move(arena), {dead.begin, dead.begin + bytes}});
  return bytes;
}

void BlockPool::provide(const Arena& arena, ByteRange range) {
  const std::lock_guard lock(mutex_);
  while (!range.empty() && !runs_.empty()) {
    Run& run = runs_.front();
    const auto bytes = std::min(run.range.size(), range.size());
    void* moved = ::mremap(run.arena->at(run.range.begin), bytes, bytes,
                           MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, arena.at(range.begin));
    if (moved == MAP_FAILED || ++moves_ == kMostMoves) most_bytes_ = 0;  // no more from now on
    if (moved == MAP_FAILED) return;
    run.range.begin += bytes;
    range.begin += bytes;
    kept_bytes_ -= bytes;
    if (run.range.empty()) runs_.pop_front();
  }
}

void BlockPool::close() {
  std::deque<Run> runs;
  {
    const std::lock_guard lock(mutex_);
    most_bytes_ = 0;
    kept_bytes_ = 0;
    runs.swap(runs_);
  }
  for (const auto& run : runs) run.arena->give_back(run.range);
}

std::uint64_t BlockPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace weightstream
