// The memory of one stream on a device: tensors of the framework's own, kept here until their items are handed out.
//
// Everything here needs the GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "bindings/dlpack.h"
#include "engine/device_groups.h"

namespace weightstream::bindings {

class DeviceMemory {
 public:
  // `groups` outlive it. `device`: what the framework calls the device in DLPack.
  DeviceMemory(const DeviceGroups& groups, DlpackDevice device);

  // The next group's memory: `owner` keeps what is at `address` allocated. Precondition: a group has none yet.
  void add(nanobind::object owner, std::uint64_t address);
  // The groups that have memory: all before this.
  [[nodiscard]] std::uint32_t size() const { return static_cast<std::uint32_t>(memory_.size()); }
  // Lets go of the memory of groups from `first` on.
  void forget(std::uint32_t first);

  // Throws kClosed after let_go(), as taking does.
  void check_open() const;

  // Whether an item is alone in its memory.
  [[nodiscard]] bool alone(std::uint32_t item) const;
  // The memory of an item that is alone, handed over.
  [[nodiscard]] nanobind::object take(std::uint32_t item);
  // The part of an item that shares its memory: a tensor of its own, which keeps all of the memory allocated.
  [[nodiscard]] nanobind::object take_part(std::uint32_t item, DlpackType type, std::vector<std::int64_t> shape);

  // All that was not handed out, as one owner, which may be dropped by any thread. Nothing is taken or added any more.
  [[nodiscard]] std::shared_ptr<void> let_go();

 private:
  struct Memory {
    nanobind::object owner;
    std::uint64_t address = 0;
    std::uint32_t left = 0;  // items to be handed out
  };
  const DeviceGroups& groups_;
  const DlpackDevice device_;
  std::vector<Memory> memory_;
  bool closed_ = false;
};

}  // namespace weightstream::bindings
