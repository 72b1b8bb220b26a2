// Blocks of dead tensors, kept to back the reads to come.
//
// A consumer that drops tensors as it goes frees and touches the same amount of memory over and over; each fresh huge
// page has to be zeroed by the kernel, and a virtual machine may even fetch it from its host again. A kept block moves
// its pages to where the next read lands instead: mremap(2) with MREMAP_DONTUNMAP moves a huge page by one page table
// entry. What cannot be moved (an older kernel, too many moves) is simply not kept; that costs speed, nothing else.
//
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>

#include "base/error.h"

namespace weightstream {

class Arena;

class BlockPool {
 public:
  // Keeps at most `most_bytes`; 0 keeps nothing.
  explicit BlockPool(std::uint64_t most_bytes) : most_bytes_(most_bytes) {}

  // Takes the pages of `dead`, whole blocks of `arena` that nobody uses any more, or a part from its front. Returns
  // the bytes taken; the rest is the caller's to give back.
  std::uint64_t keep(std::shared_ptr<Arena> arena, ByteRange dead);

  // Moves kept pages to `range`, whole blocks of `arena` that nobody has touched yet, as far as they go.
  void provide(const Arena& arena, ByteRange range);

  // Gives everything back to the system, and keeps nothing from now on. Idempotent.
  void close();

  [[nodiscard]] std::uint64_t kept_bytes() const;

 private:
  // Each move leaves a mapping of its own behind, of which a process may have 65,530 by default.
  static constexpr std::uint32_t kMostMoves = 16'000;

  struct Run {
    std::shared_ptr<Arena> arena;
    ByteRange range;
  };

  mutable std::mutex mutex_;
  std::uint64_t most_bytes_;
  std::uint64_t kept_bytes_ = 0;
  std::uint32_t moves_ = 0;
  std::deque<Run> runs_;
};

}  // namespace weightstream
