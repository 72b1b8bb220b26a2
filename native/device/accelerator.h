// One accelerator: its primary context, which a framework in this process works in too, and host memory pinned for it.
//
// The context is never made beside the framework's. It is current on a thread only inside within(), which puts back
// whatever was current before.
//
// Another thread may be capturing a graph meanwhile, in the mode that frameworks use unless told otherwise: a call that
// could make it wait (a query of an event, pinning) is refused then, and ends that capture. What is called here is none
// of the capture's business, so inside within() the thread says that it knows what it does.
//
// A context can be lost: after some failures (an illegal access by any kernel of the process) every later call fails.
// That is recognised, said once with its cause, and from then on calls fail without asking the driver. Nothing runs on
// a lost device, so nothing has to be waited for. In a forked child no function of the driver is called.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/result.h"
#include "device/driver.h"

namespace weightstream {

class Accelerator {
 public:
  // The `ordinal`-th device that this process sees (CUDA_VISIBLE_DEVICES is the driver's business). Fails with kDevice:
  // there is no such device, or the driver refuses it.
  static Result<std::shared_ptr<Accelerator>> open(std::shared_ptr<const Driver> driver, int ordinal);

  ~Accelerator();
  Accelerator(const Accelerator&) = delete;
  Accelerator& operator=(const Accelerator&) = delete;

  [[nodiscard]] Vendor vendor() const { return driver_->vendor(); }
  [[nodiscard]] const std::string& label() const { return label_; }  // "cuda:0", as torch says for HIP too
  [[nodiscard]] const std::string& name() const { return name_; }  // "NVIDIA H200"
  [[nodiscard]] const std::string& pci_bus_id() const { return pci_bus_id_; }  // "0000:3b:00.0"; empty if unknown
  // Whether its memory is the host's: what is pinned, and what is in the page cache, the model does not have.
  [[nodiscard]] bool integrated() const { return integrated_; }
  [[nodiscard]] bool lost() const { return lost_.load(std::memory_order_acquire); }

  // Pins [at, at + bytes), whole pages, for every device of the process. A range must be unregistered as a whole.
  // Fails with kDevice; nothing is pinned then.
  Status register_host(std::byte* at, std::uint64_t bytes);
  // Precondition: no copy out of the range is under way. What cannot be unregistered because the device is lost stays
  // locked until the process ends, but may be unmapped.
  void unregister_host(std::byte* at) noexcept;

  // Runs `body`, which returns a Status, while the device is current on this thread. Fails without running it when the
  // device is lost (kDevice) or this is a forked child (kClosed).
  template <typename Body>
  Status within(Body body) {
    if (auto usable = check_usable(); !usable) return usable;
    Outside outside;
    if (auto entered = check(enter(outside)); !entered) return entered;
    Status done = body();
    auto left = check(leave(outside));
    return done ? left : done;
  }
  // The same for what ends a resource: its failure changes nothing for the caller. Is also tried on a lost device,
  // where it fails at once.
  template <typename Body>
  void quietly_within(Body body) noexcept {
    if (!driver_->usable_here()) return;
    Outside outside;
    if (!driver_->check(enter(outside))) return;
    (void)driver_->check(body());
    (void)driver_->check(leave(outside));
  }

  [[nodiscard]] const DriverTable& table() const { return driver_->table; }
  // What a call returned, as an Error that names the device. Notices when the device is lost.
  Status check(DriverStatus result);
  Result<bool> check_ready(DriverStatus result);
  // The priority that copies run with: ahead of kernels, which would otherwise hold them up.
  [[nodiscard]] int copy_priority() const { return copy_priority_; }

 private:
  Accelerator(std::shared_ptr<const Driver> driver, int ordinal);
  // What a thread has outside of within().
  struct Outside {
    std::intptr_t current = 0;
    int capture_mode = kCaptureRelaxed;
  };
  DriverStatus enter(Outside& outside) const;
  DriverStatus leave(Outside& outside) const;
  Status find_device(int ordinal);
  Status describe();
  Status check_usable();
  Error explain(Error error, int status);

  const std::shared_ptr<const Driver> driver_;
  const std::string label_;
  std::string name_;
  std::string pci_bus_id_;
  bool integrated_ = false;
  int device_ = 0;
  void* context_ = nullptr;
  bool retained_ = false;
  int copy_priority_ = 0;
  std::atomic<bool> lost_ = false;
  std::mutex mutex_;
  std::string lost_because_;  // guarded by mutex_
};

}  // namespace weightstream
