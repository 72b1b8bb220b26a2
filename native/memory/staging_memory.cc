#include "memory/staging_memory.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "base/checked.h"
#include "memory/numa.h"

namespace weightstream {

Result<StagingMemory> StagingMemory::pageable(const Pinner& near_device, std::uint64_t bytes) {
  const std::uint64_t reserved = bytes + kAlignment;  // so that an aligned start fits
  void* start = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (start == MAP_FAILED) {
    const int error = errno;
    return Error{.code = ErrorCode::kStorage,
                 .message = "cannot map " + std::to_string(bytes) + " bytes of memory for copies to a device: " +
                            std::strerror(error) + " (look at `ulimit -v` and vm.overcommit_memory)",
                 .system_errno = error};
  }
  const auto address = reinterpret_cast<std::uintptr_t>(start);
  const auto aligned = align_up(address, kAlignment);
  if (aligned > address) ::munmap(start, aligned - address);
  const auto tail = address + reserved - (aligned + bytes);
  if (tail > 0) ::munmap(reinterpret_cast<void*>(aligned + bytes), tail);

  auto* begin = reinterpret_cast<std::byte*>(aligned);
  ::madvise(begin, bytes, MADV_HUGEPAGE);  // a refusal costs speed, not correctness
  // A fork shares pages until one side writes to them. Before Linux 5.12 that side may be ours: it would go on with a
  // copy, and the device with the old page. Since then the child gets a copy of every pinned page at once, which
  // nobody wants either.
  ::madvise(begin, bytes, MADV_DONTFORK);
  if (several_numa_nodes()) prefer_numa_node(begin, bytes, near_device.numa_node());
  return StagingMemory(begin, bytes);
}

Result<StagingMemory> StagingMemory::pinned(std::shared_ptr<Pinner> pinner, std::uint64_t bytes) {
  auto memory = pageable(*pinner, bytes);
  if (!memory) return memory;
  if (auto pinned = pinner->pin(memory->begin_, bytes); !pinned) return std::move(pinned).error();
  memory->pinner_ = std::move(pinner);
  return memory;
}

StagingMemory::StagingMemory(StagingMemory&& other) noexcept
    : pinner_(std::move(other.pinner_)), begin_(std::exchange(other.begin_, nullptr)), size_(other.size_) {}

StagingMemory::~StagingMemory() {
  if (!begin_) return;
  if (pinner_) pinner_->unpin(begin_, size_);
  ::munmap(begin_, size_);
}

}  // namespace weightstream
