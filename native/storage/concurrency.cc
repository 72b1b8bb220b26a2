#include "storage/concurrency.h"

#include <algorithm>

namespace weightstream {
namespace {

// A step up has to pay at least this much, else it only adds latency and memory in flight.
constexpr double kWorthwhile = 1.05;
constexpr auto kShortestWindow = std::chrono::milliseconds(20);
constexpr std::uint32_t kReadsPerPlace = 2;

}  // namespace

Concurrency::Concurrency(std::uint32_t start, std::uint32_t most)
    : limit_(std::clamp(start, 1U, std::max(most, 1U))), most_(std::max(most, 1U)), best_limit_(limit_) {}

void Concurrency::begin_window(Clock::time_point now) {
  window_begin_ = now;
  window_bytes_ = 0;
  window_reads_ = 0;
  window_open_ = true;
}

void Concurrency::starved(Clock::time_point now) { begin_window(now); }

std::uint32_t Concurrency::completed(std::uint64_t bytes, Clock::time_point now) {
  if (!window_open_) begin_window(now);
  window_bytes_ += bytes;
  ++window_reads_;
  const auto elapsed = now - window_begin_;
  if (elapsed < kShortestWindow || window_reads_ < kReadsPerPlace * limit_) return limit_;

  const double rate = static_cast<double>(window_bytes_) / std::chrono::duration<double>(elapsed).count();
  if (phase_ == Phase::kGrow) {
    if (rate > best_rate_ * kWorthwhile) {
      best_rate_ = rate;
      best_limit_ = limit_;
      limit_ = std::min(limit_ * 2, most_);
    } else {
      limit_ = best_limit_;
      phase_ = Phase::kHold;
    }
    if (limit_ == most_ && best_limit_ == most_) phase_ = Phase::kHold;
  } else if (rate < best_rate_ / 2) {
    // The storage changed under us (another tenant, a cold stretch after a warm one): climb again from here.
    best_rate_ = rate;
    best_limit_ = limit_;
    limit_ = std::min(limit_ * 2, most_);
    phase_ = Phase::kGrow;
  }
  begin_window(now);
  return limit_;
}

}  // namespace weightstream
