// Work that may take long, on a thread of its own, so that the caller stays interruptible by signals.
#pragma once

#include <nanobind/nanobind.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <thread>
#include <utility>

#include "base/core_thread.h"
#include "bindings/errors.h"

namespace weightstream::bindings {

// Returns what `work(cancelled)` returns, or throws its error. On a signal whose handler raises, `cancelled` is set
// and the work is left to itself: a file server may keep it for long, so it must own all that it uses.
template <typename T, typename Work>
T run_interruptibly(Work work) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable done;
    std::atomic<bool> cancelled = false;
    std::optional<Result<T>> result;
  };
  auto shared = std::make_shared<Shared>();
  std::thread thread;
  value_or_throw(start_core_thread(thread, "ws-open", [shared, work = std::move(work)] {
    auto result = [&]() -> Result<T> {
      try {
        return work(shared->cancelled);
      } catch (const std::bad_alloc&) {
        return Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM};
      }
    }();
    const std::lock_guard lock(shared->mutex);
    shared->result.emplace(std::move(result));
    shared->done.notify_one();
  }));
  const auto wait = [&] {
    const nanobind::gil_scoped_release release;
    std::unique_lock lock(shared->mutex);
    return shared->done.wait_for(lock, std::chrono::milliseconds(50), [&] { return shared->result.has_value(); });
  };
  while (!wait()) {
    if (PyErr_CheckSignals() == 0) continue;
    shared->cancelled.store(true, std::memory_order_release);
    thread.detach();
    throw nanobind::python_error();
  }
  {
    const nanobind::gil_scoped_release release;
    thread.join();
  }
  return value_or_throw(std::move(*shared->result));
}

}  // namespace weightstream::bindings
