// How many connections to one storage at a time: more as long as throughput follows, fewer when the storage says so.
//
// An object store gives each connection a share, so the way up is steep: the number doubles while the rate grows with
// it. A window of measurement begins when the connections of the last step have had time to deliver. Where a step did
// not pay the one before it is kept, and tried again later: links and neighbours change. Thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>

namespace weightstream {

class Ramp {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts at `start`, stays in [1, most]. With start == most only throttling moves it.
  Ramp(std::uint32_t start, std::uint32_t most);

  [[nodiscard]] std::uint32_t limit() const;
  // Bytes arrived; `busy` says whether all the places are taken (otherwise the rate says nothing about them).
  void received(std::uint64_t bytes, bool busy, Clock::time_point now);
  // How long a connection took from being asked for to its first byte.
  void first_byte(Clock::duration latency);
  // The storage asked to slow down.
  void throttled(Clock::time_point now);
  // What is worth remembering for the next load.
  [[nodiscard]] std::uint32_t best() const;

 private:
  enum class Phase : std::uint8_t { kGrow, kHold };
  void settle(Clock::time_point now);
  void judge(double rate, Clock::time_point now);

  mutable std::mutex mutex_;
  std::uint32_t limit_;
  const std::uint32_t most_;
  Phase phase_ = Phase::kGrow;
  std::uint32_t best_limit_;
  double best_rate_ = 0;  // bytes per second
  std::uint32_t misses_ = 0;
  Clock::duration latency_{};
  Clock::duration hold_;
  bool open_ = false;
  Clock::time_point begin_{};  // of the window; in the future while a step settles
  Clock::time_point again_{};  // when to try the next step again
  Clock::time_point slowed_{};
  std::uint64_t bytes_ = 0;
};

}  // namespace weightstream
