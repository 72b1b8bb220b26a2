// A Python object that is owned where there may be no GIL.
#pragma once

#include <nanobind/nanobind.h>

#include <utility>

namespace weightstream::bindings {

// A reference that may be dropped without the GIL. When the interpreter has ended there is nothing left to drop.
//
// Nor while it ends: whoever asks for the GIL then, and is not the thread that ends it, is made to exit, which in a
// destructor aborts the process, or waits for ever. Copies that outlive their stream end at any time, so the end has to
// be announced: from then on what threads of the core would drop stays.
class PythonOwner {
 public:
  explicit PythonOwner(nanobind::object owner) : owner_(std::move(owner)) {}
  PythonOwner(PythonOwner&& other) noexcept = default;
  PythonOwner& operator=(PythonOwner&&) = delete;
  ~PythonOwner() {
    if (owner_.is_valid()) drop();
  }

  // Once, when the module is made.
  static void watch_forks();
  // With the GIL, before the interpreter is taken apart. Waits for those who are dropping something.
  static void interpreter_ends();

 private:
  void drop() noexcept;

  nanobind::object owner_;
};

}  // namespace weightstream::bindings
