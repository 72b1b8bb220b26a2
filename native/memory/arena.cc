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
  arena_->release(range_);
  arena_.reset();
}

Arena::Arena(std::byte* base, std::uint64_t capacity, bool returns_pages)
    : base_(base), capacity_(capacity), returns_pages_(returns_pages), holders_(capacity / kBlockBytes) {}

Result<std::shared_ptr<Arena>> Arena::reserve(std::uint64_t size) {
  const std::uint64_t capacity = align_up(size == 0 ? 1 : size, kBlockBytes);
  const std::uint64_t reserved = capacity + kBlockBytes;  // so that a 2 MiB aligned start fits
  void* start = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) return refused(reserved, errno);
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const auto aligned = align_up(address, kBlockBytes);
  if (aligned > address) ::munmap(start, aligned - address);
  const auto tail = address + reserved - (aligned + capacity);
  if (tail > 0) ::munmap(reinterpret_cast<void*>(aligned + capacity), tail);
  return std::shared_ptr<Arena>(new Arena(reinterpret_cast<std::byte*>(aligned), capacity, true));
}

Result<std::shared_ptr<Arena>> Arena::map_file(int fd, std::uint64_t size) {
  const std::uint64_t length = size == 0 ? 1 : size;
  void* start = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd, 0);
  if (start == MAP_FAILED) return refused(length, errno);
  // Pages of a private file mapping are the page cache's until written to; there is nothing to hand back early.
  return std::shared_ptr<Arena>(new Arena(static_cast<std::byte*>(start), align_up(length, kPageBytes), false));
}

Arena::~Arena() { ::munmap(base_, capacity_); }

void Arena::advise_huge(ByteRange range) const {
  const auto half = kBlockBytes / 2;
  const std::uint64_t begin = align_down(range.begin + half, kBlockBytes);
  const std::uint64_t end = align_down(range.end + half, kBlockBytes);
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
  if (!returns_pages_ || range.empty()) return;
  const auto first = range.begin / kBlockBytes;
  const auto last = (range.end - 1) / kBlockBytes;
  // Dead blocks form runs; each run goes back in one call. A block that lives on gives up this lease's own whole pages.
  ByteRange dead;
  const auto give_back = [&] {
    if (!dead.empty()) ::madvise(at(dead.begin), dead.size(), MADV_DONTNEED);
  };
  const auto extend = [&](ByteRange more) {
    if (dead.end == more.begin && !dead.empty()) {
      dead.end = more.end;
    } else {
      give_back();
      dead = more;
    }
  };
  for (auto block = first; block <= last; ++block) {
    const ByteRange whole{block * kBlockBytes, (block + 1) * kBlockBytes};
    // acq_rel: whoever takes the count to zero sees every write that other holders made to the block.
    if (holders_[block].fetch_sub(1, std::memory_order_acq_rel) == 1) {
      extend(whole);
      continue;
    }
    const ByteRange own{align_up(std::max(range.begin, whole.begin), kPageBytes),
                        align_down(std::min(range.end, whole.end), kPageBytes)};
    if (own.begin < own.end && own.size() >= kMinPartialRelease) extend(own);
  }
  give_back();
}

}  // namespace weightstream
