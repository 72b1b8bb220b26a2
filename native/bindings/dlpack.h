// Tensors as DLPack capsules (https://dmlc.github.io/dlpack/latest/c_api.html, the unversioned `dltensor`).
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <vector>

#include "bindings/host_tensor.h"
#include "format/dtype.h"

namespace weightstream::bindings {

// How a dtype travels through DLPack. Types that frameworks do not all accept there travel as bytes of the same shape,
// and the receiver views them as what they are.
struct DlpackType {
  std::uint8_t code;
  std::uint8_t bits;
  bool needs_view;
};
[[nodiscard]] DlpackType dlpack_type(Dtype dtype);

// What a framework calls a device: DLDeviceType and an index.
struct DlpackDevice {
  std::int32_t type;
  std::int32_t index;
};

// The capsule owns `tensor`. Its deleter may run on any thread, with or without the GIL.
[[nodiscard]] nanobind::object to_dlpack(HostTensor tensor, DlpackType type, std::vector<std::int64_t> shape);
// Memory at `address` of a device, which `owner` keeps. The capsule's deleter takes the GIL.
[[nodiscard]] nanobind::object to_dlpack(const nanobind::object& owner, std::uint64_t address, DlpackDevice device,
                                         DlpackType type, std::vector<std::int64_t> shape);

}  // namespace weightstream::bindings
