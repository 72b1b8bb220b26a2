#include "bindings/host_tensor.h"

#include <nanobind/nanobind.h>

#include <cstring>
#include <utility>

#include "bindings/bindings.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

int get_buffer(PyObject* self, Py_buffer* view, int flags) {
  const auto* tensor = nb::inst_ptr<HostTensor>(nb::handle(self));
  static std::byte empty;  // a buffer of no bytes still needs an address
  void* data = tensor->size() == 0 ? &empty : tensor->data();
  return PyBuffer_FillInfo(view, self, data, static_cast<Py_ssize_t>(tensor->size()), /*readonly=*/0, flags);
}

PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(get_buffer)}, {0, nullptr}};

}  // namespace

HostTensor::HostTensor(Lease lease, std::size_t alignment)
    : lease_(std::move(lease)), size_(lease_ ? lease_.size() : 0) {
  if (size_ == 0 || reinterpret_cast<std::uintptr_t>(lease_.data()) % alignment == 0) return;
  aligned_ = std::make_unique_for_overwrite<std::byte[]>(size_);  // aligned for every fundamental type
  std::memcpy(aligned_.get(), lease_.data(), size_);
  lease_ = Lease();
}

void bind_host_tensor(nb::module_& module) {
  nb::class_<HostTensor>(module, "HostTensor", nb::type_slots(slots),
                         "The bytes of one tensor; a writable buffer. The memory lives as long as any view of it.")
      .def("__len__", &HostTensor::size);
}

}  // namespace weightstream::bindings
