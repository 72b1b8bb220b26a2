// Page-locks host memory for an accelerator, so that copies out of it are asynchronous and run at the speed of the
// link. An interface: whoever owns the memory (the slot pool) knows no accelerator, and tests put faults in its place.
//
// Thread-safe. No call waits for work of the device.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/result.h"

namespace weightstream {

class Pinner {
 public:
  virtual ~Pinner() = default;

  // Locks [at, at + bytes), whole pages that no other pin() covers. Takes about 0.1 s per GB. On failure nothing is
  // locked: kDevice, with the driver's own words.
  virtual Result<Ok> pin(std::byte* at, std::uint64_t bytes) = 0;

  // Ends a pin() that succeeded, with the same range; the memory may be unmapped after it. Precondition: no copy out of
  // it is under way. Always ends the caller's business, also when the device is lost and in a forked child.
  virtual void unpin(std::byte* at, std::uint64_t bytes) noexcept = 0;

  // Whether the device can still be used. Where it can, memory that cannot be pinned will do as it is.
  [[nodiscard]] virtual bool usable() const = 0;

  // The NUMA node that the accelerator is attached to, where memory should come from; -1 if unknown.
  [[nodiscard]] virtual int numa_node() const = 0;

 protected:
  Pinner() = default;
  Pinner(const Pinner&) = default;
  Pinner& operator=(const Pinner&) = default;
};

}  // namespace weightstream
