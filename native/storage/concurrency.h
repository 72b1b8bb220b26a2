// How many reads to keep in flight: grows while throughput grows, steps back when it does not.
//
// Hill climbing over windows of completed bytes. A window is long enough to hold several completions of every place
// in flight, so that one slow read does not decide. Not thread-safe; the reader that owns it guards it.
#pragma once

#include <chrono>
#include <cstdint>

namespace weightstream {

class Concurrency {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts at `start` and never leaves [1, most]. With start == most it never changes.
  Concurrency(std::uint32_t start, std::uint32_t most);

  // Reports a completed read; returns the number of reads to keep in flight from now on.
  std::uint32_t completed(std::uint64_t bytes, Clock::time_point now);
  // The feed had nothing to give: the window says nothing about the storage and starts anew.
  void starved(Clock::time_point now);

  [[nodiscard]] std::uint32_t limit() const { return limit_; }

 private:
  enum class Phase { kGrow, kHold };
  void begin_window(Clock::time_point now);

  std::uint32_t limit_;
  std::uint32_t most_;
  Phase phase_ = Phase::kGrow;
  std::uint32_t best_limit_;
  double best_rate_ = 0.0;  // bytes per second
  Clock::time_point window_begin_{};
  std::uint64_t window_bytes_ = 0;
  std::uint32_t window_reads_ = 0;
  bool window_open_ = false;
};

}  // namespace weightstream
