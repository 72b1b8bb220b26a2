// Host memory that copies to a device start from: mapped, backed by huge pages where the kernel has them, near the
// device, and pinned as a whole, so that the device reads it by itself. Or not pinned, where the system does not let a
// process do that: the driver then copies it once more on the way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/result.h"
#include "memory/pinner.h"

namespace weightstream {

// Owns the memory: unpins and unmaps it when it goes. Not for use in a forked child, which does not have the memory.
class StagingMemory {
 public:
  static constexpr std::uint64_t kAlignment = std::uint64_t{2} << 20;

  // `bytes` is a multiple of 4096. Both fail with kStorage when the address space is refused; pinned() also with the
  // pinner's error.
  static Result<StagingMemory> pinned(std::shared_ptr<Pinner> pinner, std::uint64_t bytes);
  static Result<StagingMemory> pageable(const Pinner& near_device, std::uint64_t bytes);

  StagingMemory(StagingMemory&& other) noexcept;
  StagingMemory& operator=(StagingMemory&&) = delete;
  StagingMemory(const StagingMemory&) = delete;
  StagingMemory& operator=(const StagingMemory&) = delete;
  ~StagingMemory();

  [[nodiscard]] std::byte* begin() const { return begin_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] bool is_pinned() const { return pinner_ != nullptr; }

 private:
  StagingMemory(std::byte* begin, std::uint64_t size) : begin_(begin), size_(size) {}

  std::shared_ptr<Pinner> pinner_;  // null where it is not pinned
  std::byte* begin_;  // null when moved from
  std::uint64_t size_;
};

}  // namespace weightstream
