// Copies to a device that run behind the caller's back, in order, and the events that say how far they are.
//
// An event stands for everything that was queued on a stream when it was recorded. Both are destroyed without waiting:
// the work that is queued goes on, so host memory that it reads has to stay until an event behind it was reached, or
// wait_idle() said so, or the device is lost.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>

#include "base/result.h"
#include "device/accelerator.h"

namespace weightstream {

// The handle of a stream that somebody else owns, as torch gives it (`torch.cuda.current_stream().cuda_stream`); 0 is
// the default stream. It must not be capturing a graph.
using ForeignStream = std::uintptr_t;

// Moves, does not copy. Thread-safe, but one that is recorded again by another thread says nothing useful.
class DeviceEvent {
 public:
  static Result<DeviceEvent> create(std::shared_ptr<Accelerator> accelerator);
  DeviceEvent(DeviceEvent&& other) noexcept
      : accelerator_(std::move(other.accelerator_)), handle_(std::exchange(other.handle_, nullptr)) {}
  DeviceEvent& operator=(DeviceEvent&& other) noexcept;
  DeviceEvent(const DeviceEvent&) = delete;
  DeviceEvent& operator=(const DeviceEvent&) = delete;
  ~DeviceEvent() { reset(); }

  // Stands for what is queued on `stream` now. Needs no other order between the two streams.
  Status record(ForeignStream stream);

  // Whether all that it stands for is done; true if it was never recorded. An error: that will never be known.
  [[nodiscard]] Result<bool> reached() const;
  // The same after waiting for at most `bound`. Looks often at first, then every millisecond.
  [[nodiscard]] Result<bool> wait_for(std::chrono::milliseconds bound) const;

 private:
  friend class CopyStream;
  DeviceEvent(std::shared_ptr<Accelerator> accelerator, void* handle)
      : accelerator_(std::move(accelerator)), handle_(handle) {}
  void reset() noexcept;

  std::shared_ptr<Accelerator> accelerator_;
  void* handle_;
};

// A stream of our own, independent of the default stream. Thread-safe. Work that a call was to queue may run although
// the call failed: what it uses is free when wait_idle() says so, as after success.
class CopyStream {
 public:
  static Result<std::unique_ptr<CopyStream>> create(std::shared_ptr<Accelerator> accelerator);
  ~CopyStream();
  CopyStream(const CopyStream&) = delete;
  CopyStream& operator=(const CopyStream&) = delete;

  // Queues a copy of `bytes` from host memory to the device address `to`. Returns at once if the host memory is pinned,
  // otherwise when the driver has read it.
  Status copy(std::uint64_t to, const std::byte* from, std::uint64_t bytes);

  // `event` stands for what is queued here now.
  Status record(DeviceEvent& event);
  // What is queued here from now on waits for what `event` stands for now. The caller does not.
  Status wait_for(const DeviceEvent& event);
  // What is queued here from now on waits for what is queued on `stream` now. The caller does not.
  Status wait_for(ForeignStream stream);

  // Whether all that was queued is done.
  [[nodiscard]] Result<bool> idle() const;
  [[nodiscard]] Result<bool> wait_idle(std::chrono::milliseconds bound) const;

 private:
  CopyStream(std::shared_ptr<Accelerator> accelerator, DeviceEvent foreign, void* handle)
      : accelerator_(std::move(accelerator)), foreign_(std::move(foreign)), handle_(handle) {}

  const std::shared_ptr<Accelerator> accelerator_;
  std::mutex mutex_;  // between a record and its wait, foreign_ is one caller's
  DeviceEvent foreign_;  // marks a place on a foreign stream
  void* handle_;
};

}  // namespace weightstream
