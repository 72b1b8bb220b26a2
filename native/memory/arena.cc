#include "memory/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/checked.h"

namespace weightstream {
namespace {

// Below this, handing single pages back costs more (a split huge page, a system call) than the pages are worth; they
// go with their block instead.
constexpr std::uint64_t kMinPartialRelease = 256 << 10;

Error refused(std::uint64_t bytes, int error) {
  return {.code = ErrorCode::kStorage,
          .message = "cannot reserve " + std::to_string(bytes) + " bytes of address space: " + std::strerror(error) +
                     " (look at `ulimit -v` and vm.overcommit_memory)",
          .system_errno = error};
}

}  // namespace

Lease& Lease::operator=(Lease&& other) noexcept {
  if (this != &other) {
    reset();
    arena_ = std::move(other.arena_);
    range_ = other.range_;
  }
  return *this;
}

std::byte* Lease::data() const { return arena_->at(range_.begin); }

void Lease::reset() noexcept {
  if (!arena_) return;
  arena_->release_lease(range_);
  arena_.reset();
}

Arena::Arena(std::byte* base, std::uint64_t capacity, bool returns_pages, std::shared_ptr<BlockPool> pool)
    : base_(base),
      capacity_(capacity),
      returns_pages_(returns_pages),
      pool_(std::move(pool)),
      holders_(returns_pages ? capacity / kBlockBytes : 0) {}

Result<std::shared_ptr<Arena>> Arena::reserve(std::uint64_t size, std::shared_ptr<BlockPool> pool) {
  const std::uint64_t capacity = align_up(size == 0 ? 1 : size, kBlockBytes);
  const std::uint64_t reserved = capacity + kBlockBytes;  // so that a 2 MiB aligned start fits
  void* start = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return refused(reserved, errno);
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const auto aligned = align_up(address, kBlockBytes);
  if (aligned > address) ::munmap(start, aligned - address);
  const auto tail = address + reserved - (aligned + capacity);
  if (tail > 0) ::munmap(reinterpret_cast<void*>(aligned + capacity), tail);
  ::madvise(reinterpret_cast<void*>(aligned), capacity, MADV_NOHUGEPAGE);  // see advise_huge()
  return std::shared_ptr<Arena>(new Arena(reinterpret_cast<std::byte*>(aligned), capacity, true, std::move(pool)));
}

Result<std::shared_ptr<Arena>> Arena::map_file(int fd, std::uint64_t size) {
  const std::uint64_t length = size == 0 ? 1 : size;
  void* start = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  if (start == MAP_FAILED) return refused(length, errno);
  // Pages of a private file mapping are the page cache's until written to; there is nothing to hand back early.
  return std::shared_ptr<Arena>(
      new Arena(static_cast<std::byte*>(start), align_up(length, kPageBytes), false, nullptr));
}

Arena::~Arena() {
  ::munmap(base_, capacity_);
  BlockPool::forget_moves(moved_in_);
}

void Arena::advise_huge(ByteRange range) const {
  const std::uint64_t begin = align_up(range.begin, kBlockBytes);
  const std::uint64_t end = align_down(std::min(range.end, capacity_), kBlockBytes);
  // A refusal (no huge pages on this kernel) costs speed, not correctness.
  if (end > begin) ::madvise(at(begin), end - begin, MADV_HUGEPAGE);
}

void Arena::hold(ByteRange range) {
  if (!returns_pages_ || range.empty()) return;
  for (auto block = range.begin / kBlockBytes; block <= (range.end - 1) / kBlockBytes; ++block) {
    holders_[block].fetch_add(1, std::memory_order_relaxed);
  }
}

void Arena::release(ByteRange range) noexcept {
  drop_holds(range, [](ByteRange) {});
}

void Arena::release_lease(ByteRange range) noexcept {
  // The bytes of a lease are its own: of a block that others still hold, at least its whole pages can go.
  drop_holds(range, [&](ByteRange block) {
    const ByteRange own{align_up(std::max(range.begin, block.begin), kPageBytes),
                        align_down(std::min(range.end, block.end), kPageBytes)};
    if (own.begin < own.end && own.size() >= kMinPartialRelease) give_back(own);
  });
}

template <typename StillHeld>
void Arena::drop_holds(ByteRange range, StillHeld still_held) noexcept {
  if (!returns_pages_ || range.empty()) return;
  const auto first = range.begin / kBlockBytes;
  const auto last = (range.end - 1) / kBlockBytes;
  ByteRange dead{first * kBlockBytes, first * kBlockBytes};  // dead blocks form runs; each run retires in one call
  for (auto block = first; block <= last; ++block) {
    const ByteRange whole{block * kBlockBytes, (block + 1) * kBlockBytes};
    // acq_rel: whoever takes the count to zero sees every write that other holders made to the block.
    if (holders_[block].fetch_sub(1, std::memory_order_acq_rel) == 1) {
      dead.end = whole.end;
      continue;
    }
    retire(dead);
    dead = {whole.end, whole.end};
    still_held(whole);
  }
  retire(dead);
}

void Arena::retire(ByteRange blocks) noexcept {
  if (blocks.empty()) return;
  if (pool_) blocks.begin += pool_->keep(shared_from_this(), blocks);
  give_back(blocks);
}

void Arena::give_back(ByteRange range) const noexcept {
  if (!range.empty()) ::madvise(at(range.begin), range.size(), MADV_DONTNEED);
}

void Arena::recycle_into(ByteRange range) {
  const ByteRange blocks{align_up(range.begin, kBlockBytes), align_down(range.end, kBlockBytes)};
  if (pool_ && blocks.begin < blocks.end) moved_in_ += pool_->provide(*this, blocks);
}

}  // namespace weightstream
