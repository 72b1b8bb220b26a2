// Pins host memory for a device, and finds the memory that is near it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "base/result.h"
#include "device/accelerator.h"
#include "memory/pinner.h"

namespace weightstream {

class DevicePinner final : public Pinner {
 public:
  explicit DevicePinner(std::shared_ptr<Accelerator> accelerator);

  Result<Ok> pin(std::byte* at, std::uint64_t bytes) override { return accelerator_->register_host(at, bytes); }
  void unpin(std::byte* at, std::uint64_t /*bytes*/) noexcept override { accelerator_->unregister_host(at); }
  [[nodiscard]] bool usable() const override { return !accelerator_->lost(); }
  [[nodiscard]] int numa_node() const override { return numa_node_; }

 private:
  const std::shared_ptr<Accelerator> accelerator_;
  const int numa_node_;
};

// The NUMA node of a PCI device by its bus id, in the form of any driver ("0000:3B:00.0", "00000000:3b:00.0"); -1 if
// unknown or if there is only one. `devices` is where the kernel lists them.
[[nodiscard]] int numa_node_of(const std::string& pci_bus_id, const std::string& devices = "/sys/bus/pci/devices");

}  // namespace weightstream
