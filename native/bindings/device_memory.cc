#include "bindings/device_memory.h"

#include <utility>

namespace nb = nanobind;

namespace weightstream::bindings {

DeviceMemory::DeviceMemory(const std::vector<PlanItem>& items, const DeviceGroups& groups, DlpackDevice device)
    : items_(items), groups_(groups), device_(device) {
  memory_.reserve(groups.groups.size());
}

void DeviceMemory::add(nb::object owner, std::uint64_t address) {
  memory_.push_back({std::move(owner), address, groups_.groups[memory_.size()].items});
}

bool DeviceMemory::alone(std::uint32_t item) const { return groups_.groups[groups_.of_item[item]].items == 1; }

nb::object DeviceMemory::take(std::uint32_t item) { return std::move(memory_[groups_.of_item[item]].owner); }

nb::object DeviceMemory::take_part(std::uint32_t item, DlpackType type, std::vector<std::int64_t> shape) {
  const auto group = groups_.of_item[item];
  Memory& memory = memory_[group];
  const std::uint64_t address = memory.address + (items_[item].range.begin - groups_.groups[group].range.begin);
  nb::object capsule = to_dlpack(memory.owner, address, device_, type, std::move(shape));
  if (--memory.left == 0) memory.owner.reset();
  return capsule;
}

void DeviceMemory::drop(bool device_is_quiet) {
  for (auto& memory : memory_) {
    if (device_is_quiet) {
      memory.owner.reset();
    } else {
      static_cast<void>(memory.owner.release());
    }
  }
}

}  // namespace weightstream::bindings
