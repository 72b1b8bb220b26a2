#include "bindings/dlpack.h"

#include <memory>
#include <utility>

#include "bindings/python_owner.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

// The DLPack ABI, version 0.
using DLDevice = DlpackDevice;
struct DLDataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};
struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;
  std::uint64_t byte_offset;
};
struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor* self);
};

constexpr DLDevice kCpu{1, 0};
constexpr std::uint8_t kInt = 0;
constexpr std::uint8_t kUInt = 1;
constexpr std::uint8_t kFloat = 2;
constexpr std::uint8_t kBfloat = 4;
constexpr std::uint8_t kComplex = 5;
constexpr std::uint8_t kBool = 6;

template <typename Owner>
struct Managed {
  Managed(Owner owned, std::vector<std::int64_t> dims) : owner(std::move(owned)), shape(std::move(dims)) {}
  Owner owner;
  std::vector<std::int64_t> shape;
  DLManagedTensor dl{};
};

constexpr const char* kFresh = "dltensor";  // a consumer renames the capsule when it takes the tensor over

void drop_capsule(PyObject* capsule) {
  if (PyCapsule_IsValid(capsule, kFresh) == 0) return;
  auto* dl = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(capsule, kFresh));
  dl->deleter(dl);
}

template <typename Owner>
nb::object make_capsule(Owner owner, void* data, DlpackDevice device, DlpackType type,
                        std::vector<std::int64_t> shape) {
  auto managed = std::make_unique<Managed<Owner>>(std::move(owner), std::move(shape));
  managed->dl.dl_tensor = {.data = data,
                           .device = device,
                           .ndim = static_cast<std::int32_t>(managed->shape.size()),
                           .dtype = {type.code, type.bits, 1},
                           .shape = managed->shape.data(),
                           .strides = nullptr,  // row-major, contiguous
                           .byte_offset = 0};
  managed->dl.manager_ctx = managed.get();
  managed->dl.deleter = [](DLManagedTensor* self) { delete static_cast<Managed<Owner>*>(self->manager_ctx); };
  PyObject* capsule = PyCapsule_New(&managed->dl, kFresh, drop_capsule);
  if (capsule == nullptr) throw nb::python_error();
  static_cast<void>(managed.release());  // the capsule's now
  return nb::steal(capsule);
}

}  // namespace

DlpackType dlpack_type(Dtype dtype) {
  const auto bits = static_cast<std::uint8_t>(info(dtype).bits);
  switch (dtype) {
    case Dtype::kBool:
      return {kBool, bits, false};
    case Dtype::kI8:
    case Dtype::kI16:
    case Dtype::kI32:
    case Dtype::kI64:
      return {kInt, bits, false};
    case Dtype::kU8:
    case Dtype::kU16:
    case Dtype::kU32:
    case Dtype::kU64:
      return {kUInt, bits, false};
    case Dtype::kF16:
    case Dtype::kF32:
    case Dtype::kF64:
      return {kFloat, bits, false};
    case Dtype::kBF16:
      return {kBfloat, bits, false};
    case Dtype::kC64:
      return {kComplex, bits, false};
    case Dtype::kF4:
    case Dtype::kF6E2M3:
    case Dtype::kF6E3M2:
    case Dtype::kF8E5M2:
    case Dtype::kF8E4M3:
    case Dtype::kF8E8M0:
    case Dtype::kF8E4M3FNUZ:
    case Dtype::kF8E5M2FNUZ:
      return {kUInt, 8, true};
  }
  return {kUInt, 8, true};
}

nb::object to_dlpack(HostTensor tensor, DlpackType type, std::vector<std::int64_t> shape) {
  void* data = tensor.data();
  return make_capsule(std::move(tensor), data, kCpu, type, std::move(shape));
}

nb::object to_dlpack(const nb::object& owner, std::uint64_t address, DlpackDevice device, DlpackType type,
                     std::vector<std::int64_t> shape) {
  void* data = reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr): frameworks give integers
  return make_capsule(PythonOwner(owner), data, device, type, std::move(shape));
}

}  // namespace weightstream::bindings
