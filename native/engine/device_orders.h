// From when on device memory may be written to: what an allocator hands out may still be used by kernels that are
// queued on the stream that it was allocated on, up to a place in it. Each such place is an order.
//
// Copies wait for it on the device. Who writes by other means than a stream (cuFile) must not begin before it has been
// seen reached.
//
// Thread-safe. The driver is never asked under the lock.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/result.h"
#include "device/accelerator.h"
#include "device/copy_stream.h"

namespace weightstream {

class DeviceOrders {
 public:
  // `looked_for`: whether anybody will ask reached().
  DeviceOrders(std::shared_ptr<Accelerator> accelerator, bool looked_for)
      : accelerator_(std::move(accelerator)), looked_for_(looked_for) {}

  // What is queued on `stream` now.
  Result<std::uint32_t> add(ForeignStream stream);

  // What is queued on `copies` from now on waits for it. Whoever waited once need not wait again.
  Status wait_on_device(std::uint32_t order, CopyStream& copies);

  // Whether it has been seen reached. If not, look() looks for it from now on, on behalf of `read`. Asks no driver.
  bool reached(std::uint32_t order, std::uint32_t read);
  // Whether it has been reached, or the copies wait for it and all that were queued have ended. Asks the driver.
  Result<bool> reached_now(std::uint32_t order);
  // Whether there is anything to look for.
  [[nodiscard]] bool wanted() const;

  struct Failure {
    std::uint32_t read;
    Error error;
  };
  struct Look {
    bool any = false;  // has been reached since the last one
    std::optional<Failure> failure = {};
  };
  // By one thread.
  Look look();

 private:
  struct Order {
    std::shared_ptr<const DeviceEvent> event;  // null: nobody needs to wait any more
    bool waited = false;                       // the copies have
    bool wanted = false;
  };
  struct Wanted {
    std::uint32_t order;
    std::uint32_t read;
  };

  const std::shared_ptr<Accelerator> accelerator_;
  const bool looked_for_;
  mutable std::mutex mutex_;
  std::deque<Order> orders_;
  std::vector<Wanted> wanted_;
};

}  // namespace weightstream
