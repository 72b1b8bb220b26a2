// Host memory that mirrors the offsets of one source: byte o of the source lives at at(o).
//
// The mirror makes placement trivial (O_DIRECT alignment of memory follows from alignment of the offset, nothing is
// ever copied) and costs address space only: pages come into being when a read lands in them. Memory goes back to
// the system as the tensors in it die:
//   - a block (2 MiB, one huge page) as soon as nobody holds it any more: no lease, and no read to come. It goes to the
//     block pool, where the next read finds it, or back to the system,
//   - of a block that is still shared, the whole pages inside a large lease.
// The address space itself goes with the last shared_ptr; leases hold one.
//
// Thread-safety: at(), hold() and ~Lease may be called from any thread; advise_huge() before reads start.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "memory/block_pool.h"

namespace weightstream {

class Arena;

// The right of one tensor to its bytes. While it lives, the bytes stay valid and nobody else writes to them.
class Lease {
 public:
  Lease() = default;
  Lease(std::shared_ptr<Arena> arena, ByteRange range) : arena_(std::move(arena)), range_(range) {}
  Lease(Lease&& other) noexcept : arena_(std::move(other.arena_)), range_(other.range_) {}
  Lease& operator=(Lease&& other) noexcept;
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() { reset(); }

  [[nodiscard]] std::byte* data() const;
  [[nodiscard]] std::uint64_t size() const { return range_.size(); }
  explicit operator bool() const { return arena_ != nullptr; }

 private:
  void reset() noexcept;
  std::shared_ptr<Arena> arena_;
  ByteRange range_;
};

class Arena : public std::enable_shared_from_this<Arena> {
 public:
  static constexpr std::uint64_t kBlockBytes = std::uint64_t{2} << 20;
  static constexpr std::uint64_t kPageBytes = 4096;

  // Reserves address space for `size` bytes, 2 MiB aligned, backed by anonymous memory on demand. Dead blocks are
  // offered to `pool`, if there is one.
  // Fails with kStorage when the address space is refused (RLIMIT_AS, strict overcommit).
  static Result<std::shared_ptr<Arena>> reserve(std::uint64_t size, std::shared_ptr<BlockPool> pool = nullptr);

  // Maps the file itself, copy-on-write. The bytes are the file's: see `backend="mmap"` in docs/semantics.md.
  static Result<std::shared_ptr<Arena>> map_file(int fd, std::uint64_t size);

  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  [[nodiscard]] std::byte* at(std::uint64_t offset) const { return base_ + offset; }
  [[nodiscard]] std::uint64_t capacity() const { return capacity_; }

  // Backs the blocks that lie wholly in `range` with huge pages. All others stay with small ones, whatever the system's
  // default is: a huge page under a few wanted bytes would cost more memory than anybody accounted for.
  void advise_huge(ByteRange range) const;

  // Declares that a lease of `range` will be taken, or that a read will write to it. Every range is declared before
  // the first read, so that a block outlives all who share it.
  void hold(ByteRange range);
  // Ends the hold of a read that is done, or never will be; once per hold(). Blocks that nobody holds any more retire.
  void release(ByteRange range) noexcept;
  // Backs the blocks that lie wholly in `range`, which nobody has touched yet, with blocks of the pool.
  void recycle_into(ByteRange range);
  // Returns the pages of `range` to the system.
  void give_back(ByteRange range) const noexcept;
  // The lease of a range that was declared by hold(), and ends that hold when it dies.
  [[nodiscard]] Lease lease(ByteRange range) { return {shared_from_this(), range}; }

 private:
  friend class Lease;
  Arena(std::byte* base, std::uint64_t capacity, bool returns_pages, std::shared_ptr<BlockPool> pool);
  void release_lease(ByteRange range) noexcept;
  template <typename StillHeld>
  void drop_holds(ByteRange range, StillHeld still_held) noexcept;
  void retire(ByteRange blocks) noexcept;

  std::byte* base_;
  std::uint64_t capacity_;
  bool returns_pages_;
  std::shared_ptr<BlockPool> pool_;  // may be null
  std::atomic<std::uint32_t> moved_in_ = 0;  // blocks that came from the pool
  std::vector<std::atomic<std::uint32_t>> holders_;  // per block: holds that overlap it
};

}  // namespace weightstream
