// Blocks of dead tensors, kept to back the reads to come.
//
// A consumer that drops tensors as it goes frees and touches the same amount of memory over and over; each fresh huge
// page has to be zeroed by the kernel, and a virtual machine may even fetch it from its host again. A kept block moves
// its pages to where the next read lands instead: mremap(2) with MREMAP_DONTUNMAP moves a huge page by one page table
// entry. After the first move that the kernel refuses (before Linux 5.7, say) nothing is kept any more; that costs
// speed, nothing else.
//
// Thread-safe. In a forked child it keeps nothing, and touches no lock: a thread of the parent may have held it.
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
  explicit BlockPool(std::uint64_t most_bytes);

  // Takes the pages of `dead`, whole blocks of `arena` that nobody uses any more, or a part from its front. Returns
  // the bytes taken; the rest is the caller's to give back.
  std::uint64_t keep(std::shared_ptr<Arena> arena, ByteRange dead);

  // Moves kept pages to `range`, whole blocks of `arena` that nobody has touched yet, as far as they go. Returns the
  // number of blocks moved; the arena reports them to forget_moves() when it goes.
  std::uint32_t provide(const Arena& arena, ByteRange range);
  static void forget_moves(std::uint32_t blocks);

  // Gives everything back to the system, and keeps nothing from now on. Idempotent.
  void close();

  [[nodiscard]] std::uint64_t kept_bytes() const;

 private:
  struct Run {
    std::shared_ptr<Arena> arena;
    ByteRange range;
  };
  static void give_back(const std::deque<Run>& runs);

  const int process_;
  mutable std::mutex mutex_;
  std::uint64_t most_bytes_;
  std::uint64_t kept_bytes_ = 0;
  std::deque<Run> runs_;
};

}  // namespace weightstream
