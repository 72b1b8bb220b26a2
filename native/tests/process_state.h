// What a test has to know about its own process: threads, descriptors, mappings, resident pages; and a watchdog, so
// that a scenario that waits for ever fails with its name.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace weightstream::testing {

// The whole build runs several times slower under a sanitizer on a busy machine; no promise is about seconds.
inline constexpr auto kPatience = std::chrono::seconds(60);

// What an earlier test joined or closed may still be counted when one begins: later there may be less, and never more.
[[nodiscard]] std::size_t count_threads();
[[nodiscard]] std::size_t count_descriptors();
// Bytes of address space.
[[nodiscard]] std::uint64_t mapped_bytes();
// Bytes of [begin, begin + size) that are in memory; begin is page aligned.
[[nodiscard]] std::uint64_t resident_bytes(const std::byte* begin, std::uint64_t size);

// Looks at `condition` until it holds or kPatience is over. For conditions that nothing signals, such as a joined
// thread leaving /proc.
[[nodiscard]] bool eventually(const std::function<bool()>& condition);

// Runs `body` in a forked child and returns its result, 0 to 125; -1 when it did not end by itself.
[[nodiscard]] int in_child(const std::function<int()>& body);

// From now on io_uring is refused to this process with EPERM, as a container's seccomp profile does. For a child.
[[nodiscard]] bool refuse_io_uring();

// Aborts the process, naming the scenario, when a scenario takes twice kPatience: what waits so long says so itself.
class Watchdog {
 public:
  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;
  void begin(std::string scenario);

 private:
  void run();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string scenario_ = "start";
  std::chrono::steady_clock::time_point deadline_ = std::chrono::steady_clock::now() + 2 * kPatience;
  bool ends_ = false;
  std::thread thread_;
};

}  // namespace weightstream::testing
