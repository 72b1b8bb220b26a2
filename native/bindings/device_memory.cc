#include "bindings/device_memory.h"

#include <iterator>
#include <utility>

#include "bindings/errors.h"
#include "bindings/python_owner.h"

namespace nb = nanobind;

namespace weightstream::bindings {

DeviceMemory::DeviceMemory(const DeviceGroups& groups, DlpackDevice device) : groups_(groups), device_(device) {
  memory_.reserve(groups.groups.size());
}

void DeviceMemory::add(nb::object owner, std::uint64_t address) {
  memory_.push_back({std::move(owner), address, groups_.groups[memory_.size()].items});
}

void DeviceMemory::forget(std::uint32_t first) {
  // Dropped when the vector is whole again: an owner that goes may run anything.
  const std::vector<Memory> gone(std::make_move_iterator(memory_.begin() + first),
                                 std::make_move_iterator(memory_.end()));
  memory_.erase(memory_.begin() + first, memory_.end());
}

void DeviceMemory::check_open() const {
  if (closed_) throw CoreError{{.code = ErrorCode::kClosed, .message = "the stream is closed"}};
}

bool DeviceMemory::alone(std::uint32_t item) const { return groups_.groups[groups_.of_item[item]].items == 1; }

nb::object DeviceMemory::take(std::uint32_t item) {
  check_open();
  return std::move(memory_[groups_.of_item[item]].owner);
}

nb::object DeviceMemory::take_part(std::uint32_t item, DlpackType type, std::vector<std::int64_t> shape) {
  check_open();
  const auto group = groups_.of_item[item];
  Memory& memory = memory_[group];
  const std::uint64_t address = memory.address + groups_.at[item];
  nb::object capsule = to_dlpack(memory.owner, address, device_, type, std::move(shape));
  if (--memory.left == 0) memory.owner.reset();
  return capsule;
}

std::shared_ptr<void> DeviceMemory::let_go() {
  closed_ = true;
  auto owners = std::make_shared<std::vector<PythonOwner>>();
  for (auto& memory : memory_) {
    if (memory.owner.is_valid()) owners->emplace_back(std::move(memory.owner));
  }
  return owners;
}

}  // namespace weightstream::bindings
