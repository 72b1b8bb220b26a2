// Host memory that a device reads by itself: mapped, backed by huge pages where the kernel has them, near the device,
// and pinned as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/result.h"
#include "memory/pinner.h"

namespace weightstream {

// Owns the memory: unpins and unmaps it when it goes. Not for use in a forked child, which does not have the memory.
class PinnedMemory {
 public:
  static constexpr std::uint64_t kAlignment = std::uint64_t{2} << 20;

  // `bytes` is a multiple of 4096. Fails with kStorage when the address space is refused, and with the pinner's error.
  static Result<PinnedMemory> map(std::shared_ptr<Pinner> pinner, std::uint64_t bytes);

  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&&) = delete;
  PinnedMemory(const PinnedMemory&) = delete;
  PinnedMemory& operator=(const PinnedMemory&) = delete;
  ~PinnedMemory();

  [[nodiscard]] std::byte* begin() const { return begin_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }

 private:
  PinnedMemory(std::shared_ptr<Pinner> pinner, std::byte* begin, std::uint64_t size)
      : pinner_(std::move(pinner)), begin_(begin), size_(size) {}

  std::shared_ptr<Pinner> pinner_;
  std::byte* begin_;  // null when moved from
  std::uint64_t size_;
};

}  // namespace weightstream
