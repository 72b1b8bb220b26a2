#include "engine/device_limbo.h"

#include <unistd.h>

#include <chrono>
#include <thread>
#include <utility>

#include "base/core_thread.h"

namespace weightstream {
namespace {

constexpr auto kLookEvery = std::chrono::milliseconds(5);

void wait_and_drop(CopiesInLimbo copies) {
  while (!copies.over()) std::this_thread::sleep_for(kLookEvery);
}

}  // namespace

void leave_in_limbo(CopiesInLimbo copies) {
  // On the heap until the thread has it: without one it stays there for ever, which is safe.
  auto* kept = new CopiesInLimbo(std::move(copies));
  std::thread thread;
  const auto started = start_core_thread(thread, "ws-limbo", [kept] {
    wait_and_drop(std::move(*kept));
    delete kept;
  });
  if (started) thread.detach();
}

}  // namespace weightstream
