#include "storage/ramp.h"

#include <algorithm>

namespace weightstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Doubling the connections has to bring at least this much, or they only cost memory and handshakes.
constexpr double kWorthwhile = 1.2;
// Steps that do not pay before it is believed: one window is noisy.
constexpr std::uint32_t kMostMisses = 2;
constexpr auto kWindow = milliseconds(100);
constexpr auto kShortestSettling = milliseconds(30);
constexpr auto kLongestSettling = seconds(1);
constexpr auto kFirstHold = seconds(2);
constexpr auto kLongestHold = seconds(30);
// A storage says "slow down" to many requests at once: one step back for all of them.
constexpr auto kBetweenSteps = milliseconds(500);

}  // namespace

Ramp::Ramp(std::uint32_t start, std::uint32_t most)
    : limit_(std::clamp(start, 1U, std::max(most, 1U))),
      most_(std::max(most, 1U)),
      best_limit_(limit_),
      hold_(kFirstHold) {}

std::uint32_t Ramp::limit() const {
  const std::lock_guard lock(mutex_);
  return limit_;
}

std::uint32_t Ramp::best() const {
  const std::lock_guard lock(mutex_);
  return best_limit_;
}

void Ramp::first_byte(Clock::duration latency) {
  const std::lock_guard lock(mutex_);
  latency_ = latency_ == Clock::duration{} ? latency : (latency_ * 3 + latency) / 4;
}

void Ramp::settle(Clock::time_point now) {
  begin_ = now + std::clamp<Clock::duration>(latency_ * 2, kShortestSettling, kLongestSettling);
  bytes_ = 0;
  open_ = true;
}

void Ramp::received(std::uint64_t bytes, bool busy, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (!busy) {
    open_ = false;
    return;
  }
  if (!open_) settle(now);
  if (now < begin_) return;
  bytes_ += bytes;
  const auto elapsed = now - begin_;
  if (elapsed < kWindow) return;
  judge(static_cast<double>(bytes_) / std::chrono::duration<double>(elapsed).count(), now);
}

void Ramp::judge(double rate, Clock::time_point now) {
  const auto before = limit_;
  if (phase_ == Phase::kGrow) {
    if (rate > best_rate_ * kWorthwhile) {
      best_rate_ = rate;
      best_limit_ = limit_;
      misses_ = 0;
      limit_ = std::min(limit_ * 2, most_);
      if (limit_ == best_limit_) phase_ = Phase::kHold;
    } else if (++misses_ >= kMostMisses) {
      limit_ = best_limit_;
      phase_ = Phase::kHold;
      again_ = now + hold_;
      hold_ = std::min<Clock::duration>(hold_ * 2, kLongestHold);
    }
  } else {
    // A slow average, so that the next step up is compared with what holds now.
    best_rate_ = best_rate_ * 0.8 + rate * 0.2;
    best_limit_ = limit_;
    if (limit_ < most_ && now >= again_ && now - slowed_ > hold_) {
      phase_ = Phase::kGrow;
      misses_ = 0;
      limit_ = std::min(limit_ * 2, most_);
    }
  }
  if (limit_ != before) {
    settle(now);
  } else {
    begin_ = now;
    bytes_ = 0;
  }
}

void Ramp::throttled(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (slowed_ != Clock::time_point{} && now - slowed_ < kBetweenSteps) return;
  slowed_ = now;
  limit_ = std::max(limit_ / 2, 1U);
  best_limit_ = limit_;
  best_rate_ = 0;
  phase_ = Phase::kHold;
  again_ = now + hold_;
  open_ = false;
}

}  // namespace weightstream
