// A Python object that is owned where there may be no GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

namespace weightstream::bindings {

// A reference that may be dropped without the GIL. When the interpreter has ended there is nothing left to drop.
class PythonOwner {
 public:
  explicit PythonOwner(nanobind::object owner) : owner_(std::move(owner)) {}
  PythonOwner(PythonOwner&& other) noexcept = default;
  PythonOwner& operator=(PythonOwner&&) = delete;
  ~PythonOwner() {
    if (!owner_.is_valid()) return;
    if (!nanobind::is_alive()) {
      static_cast<void>(owner_.release());
      return;
    }
    const nanobind::gil_scoped_acquire acquire;
    owner_.reset();
  }

 private:
  nanobind::object owner_;
};

}  // namespace weightstream::bindings
