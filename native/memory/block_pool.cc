#include "memory/block_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>

#include "base/checked.h"
#include "memory/arena.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace weightstream {
namespace {

// A moved block may be a mapping of its own for as long as its arena lives, and a process has room for 65,530 mappings
// by default. A quarter of them is ours, over all pools: the kernel's limit is the process' too.
constexpr std::uint32_t kMostMovedBlocks = 16'000;
std::atomic<std::uint32_t> moved_blocks = 0;

bool count_move() {
  if (moved_blocks.fetch_add(1, std::memory_order_relaxed) < kMostMovedBlocks) return true;
  moved_blocks.fetch_sub(1, std::memory_order_relaxed);
  return false;
}

// One block a call: mappings inside an arena begin and end at blocks only, and before Linux 6.17 a move must not span
// two mappings.
bool move_block(std::byte* from, std::byte* to) {
  constexpr auto kBytes = Arena::kBlockBytes;
  if (::mremap(from, kBytes, kBytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED) return true;
  // The kernel may have unmapped the destination before it gave up. If it did, memory has to be there again; if it did
  // not, MAP_FIXED_NOREPLACE leaves alone what is there.
  ::mmap(to, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE, -1, 0);
  return false;
}

}  // namespace

BlockPool::BlockPool(std::uint64_t most_bytes) : process_(::getpid()), most_bytes_(most_bytes) {}

std::uint64_t BlockPool::keep(std::shared_ptr<Arena> arena, ByteRange dead) {
  if (::getpid() != process_) return 0;
  const std::lock_guard lock(mutex_);
  const auto room = align_down(most_bytes_ - std::min(most_bytes_, kept_bytes_), Arena::kBlockBytes);
  const auto bytes = std::min(dead.size(), room);
  if (bytes == 0) return 0;
  kept_bytes_ += bytes;
  runs_.push_back({std::move(arena), {dead.begin, dead.begin + bytes}});
  return bytes;
}

std::uint32_t BlockPool::provide(const Arena& arena, ByteRange range) {
  std::uint32_t moved = 0;
  {
    const std::lock_guard lock(mutex_);
    for (; !range.empty() && !runs_.empty() && count_move(); ++moved) {
      Run& run = runs_.front();
      if (!move_block(run.arena->at(run.range.begin), arena.at(range.begin))) {
        forget_moves(1);
        break;
      }
      run.range.begin += Arena::kBlockBytes;
      range.begin += Arena::kBlockBytes;
      kept_bytes_ -= Arena::kBlockBytes;
      if (run.range.empty()) runs_.pop_front();
    }
    if (range.empty() || runs_.empty()) return moved;
  }
  close();  // refused, or too many: keeping blocks that cannot move is of no use
  return moved;
}

void BlockPool::forget_moves(std::uint32_t blocks) { moved_blocks.fetch_sub(blocks, std::memory_order_relaxed); }

void BlockPool::close() {
  if (::getpid() != process_) return;
  std::deque<Run> runs;
  {
    const std::lock_guard lock(mutex_);
    most_bytes_ = 0;
    kept_bytes_ = 0;
    runs.swap(runs_);
  }
  give_back(runs);
}

void BlockPool::give_back(const std::deque<Run>& runs) {
  for (const auto& run : runs) run.arena->give_back(run.range);
}

std::uint64_t BlockPool::kept_bytes() const {
  const std::lock_guard lock(mutex_);
  return kept_bytes_;
}

}  // namespace weightstream
