#include "bindings/python_owner.h"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <thread>

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(1);

std::atomic<std::uint32_t> inside = 0;  // threads that Python does not know, while they drop something
std::atomic<bool> ended = false;

// Whether a thread of Python's own runs this. Its state may be without the GIL now, and gets it again even at the end.
bool known_to_python() { return PyGILState_GetThisThreadState() != nullptr; }

}  // namespace

void PythonOwner::drop() noexcept {
  const bool counts = nb::is_alive() && !known_to_python();
  if (counts) ++inside;
  if (nb::is_alive() && !(counts && ended)) {
    const nb::gil_scoped_acquire acquire;
    owner_.reset();
  } else {
    static_cast<void>(owner_.release());
  }
  if (counts) --inside;
}

void PythonOwner::watch_forks() {
  ::pthread_atfork(nullptr, nullptr, [] { inside = 0; });  // the others are the parent's
}

void PythonOwner::interpreter_ends() {
  ended = true;
  const nb::gil_scoped_release release;  // which they wait for
  while (inside != 0) std::this_thread::sleep_for(kLookEvery);
}

}  // namespace weightstream::bindings
