// A host tensor as a DLPack capsule (https://dmlc.github.io/dlpack/latest/c_api.html, the unversioned `dltensor`).
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

// The capsule owns `tensor`. Its deleter may run on any thread, with or without the GIL.
[[nodiscard]] nanobind::object to_dlpack(HostTensor tensor, DlpackType type, std::vector<std::int64_t> shape);

}  // namespace weightstream::bindings
