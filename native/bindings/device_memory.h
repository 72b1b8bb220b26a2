// The memory of one stream on a device: tensors of the framework's own, kept here until their items are handed out.
//
// Everything here needs the GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "bindings/dlpack.h"
#include "engine/device_groups.h"
#include "engine/plan.h"

namespace weightstream::bindings {

class DeviceMemory {
 public:
  // `items` and `groups` outlive it. `device`: what the framework calls the device in DLPack.
  DeviceMemory(const std::vector<PlanItem>& items, const DeviceGroups& groups, DlpackDevice device);

  // The next group's memory: `owner` keeps what is at `address` allocated.
  void add(nanobind::object owner, std::uint64_t address);

  // Whether an item is alone in its memory.
  [[nodiscard]] bool alone(std::uint32_t item) const;
  // The memory of an item that is alone, handed over.
  [[nodiscard]] nanobind::object take(std::uint32_t item);
  // The part of an item that shares its memory: a tensor of its own, which keeps all of the memory allocated.
  [[nodiscard]] nanobind::object take_part(std::uint32_t item, DlpackType type, std::vector<std::int64_t> shape);

  // Lets go of what was not handed out; or, for a device that may still write there, never.
  void drop(bool device_is_quiet);

 private:
  struct Memory {
    nanobind::object owner;
    std::uint64_t address = 0;
    std::uint32_t left = 0;  // items to be handed out
  };
  const std::vector<PlanItem>& items_;
  const DeviceGroups& groups_;
  const DlpackDevice device_;
  std::vector<Memory> memory_;
};

}  // namespace weightstream::bindings
