// How many connections: up while the rate follows, back when it does not pay, down when the storage says so. Time is an
// argument here, nothing waits.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>

#include "storage/ramp.h"

namespace weightstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Storage that delivers `rate(limit)` bytes a second.
class Storage {
 public:
  Storage(std::uint32_t start, std::uint32_t most, std::function<double(std::uint32_t)> rate)
      : ramp(start, most), rate_(std::move(rate)) {}

  void run(Ramp::Clock::duration time) {
    for (const auto end = now + time; now < end; now += kStep) {
      ramp.received(static_cast<std::uint64_t>(rate_(ramp.limit()) * 0.01), busy, now);
      most_seen = std::max(most_seen, ramp.limit());
      least_seen = std::min(least_seen, ramp.limit());
    }
  }
  void rate(std::function<double(std::uint32_t)> rate) { rate_ = std::move(rate); }

  static constexpr auto kStep = milliseconds(10);
  Ramp ramp;
  Ramp::Clock::time_point now{std::chrono::hours(1000)};
  bool busy = true;
  std::uint32_t most_seen = 0;
  std::uint32_t least_seen = UINT32_MAX;

 private:
  std::function<double(std::uint32_t)> rate_;
};

double scales(std::uint32_t connections) { return 50e6 * connections; }
std::function<double(std::uint32_t)> saturates_at(std::uint32_t most) {
  return [most](std::uint32_t connections) { return 50e6 * std::min(connections, most); };
}

TEST(Ramp, StartsInsideItsBounds) {
  EXPECT_EQ(Ramp(16, 128).limit(), 16U);
  EXPECT_EQ(Ramp(16, 4).limit(), 4U);
  EXPECT_EQ(Ramp(0, 4).limit(), 1U);
  EXPECT_EQ(Ramp(0, 0).limit(), 1U);
  EXPECT_EQ(Ramp(16, 128).best(), 16U);
}

TEST(Ramp, DoublesWhileTheRateFollows) {
  Storage storage(16, 128, scales);
  storage.run(milliseconds(200));
  EXPECT_EQ(storage.ramp.limit(), 32U);
  storage.run(seconds(1));
  EXPECT_EQ(storage.ramp.limit(), 128U);
  storage.run(seconds(60));
  EXPECT_EQ(storage.ramp.limit(), 128U);
  EXPECT_EQ(storage.most_seen, 128U);
  EXPECT_EQ(storage.ramp.best(), 128U);
}

TEST(Ramp, StopsAtABoundThatIsNoPowerOfTwo) {
  Storage storage(16, 50, scales);
  storage.run(seconds(1));
  EXPECT_EQ(storage.ramp.limit(), 50U);
  EXPECT_EQ(storage.most_seen, 50U);
}

TEST(Ramp, GoesBackToWhatPaid) {
  Storage storage(16, 128, saturates_at(32));
  storage.run(seconds(1));
  EXPECT_EQ(storage.most_seen, 64U);
  EXPECT_EQ(storage.ramp.limit(), 32U);
  EXPECT_EQ(storage.ramp.best(), 32U);
}

// One window that is slow may be noise.
TEST(Ramp, BelievesASecondMiss) {
  Storage storage(16, 128, scales);
  storage.run(milliseconds(140));
  ASSERT_EQ(storage.ramp.limit(), 32U);
  storage.rate([](std::uint32_t) { return 50e6 * 16; });
  storage.run(milliseconds(140));
  EXPECT_EQ(storage.ramp.limit(), 32U) << "after one window";
  storage.run(milliseconds(120));
  EXPECT_EQ(storage.ramp.limit(), 16U) << "after the second";
}

TEST(Ramp, TriesAgainLaterAndStaysWhenItPaysThen) {
  Storage storage(16, 128, saturates_at(32));
  storage.run(seconds(1));
  ASSERT_EQ(storage.ramp.limit(), 32U);
  storage.most_seen = 0;
  storage.run(milliseconds(900));
  EXPECT_EQ(storage.most_seen, 32U) << "too soon";
  storage.rate(scales);
  storage.run(seconds(10));
  EXPECT_EQ(storage.ramp.limit(), 128U);
}

TEST(Ramp, TriesAgainEverMoreRarely) {
  Storage storage(16, 128, saturates_at(16));
  std::uint32_t tries = 0;
  std::uint32_t before = 16;
  for (int i = 0; i < 6000; ++i) {  // 60 s
    storage.run(Storage::kStep);
    if (storage.ramp.limit() > before) ++tries;
    before = storage.ramp.limit();
  }
  EXPECT_GE(tries, 4U);
  EXPECT_LE(tries, 7U);
  EXPECT_EQ(storage.most_seen, 32U);
}

TEST(Ramp, SaysNothingWhileThereAreFreePlaces) {
  Storage storage(16, 128, scales);
  storage.busy = false;
  storage.run(seconds(10));
  EXPECT_EQ(storage.ramp.limit(), 16U);
  storage.busy = true;
  storage.run(seconds(1));
  EXPECT_EQ(storage.ramp.limit(), 128U);
}

// Connections that are being made do not count against those that there are.
TEST(Ramp, WaitsForTheFirstBytesOfAStep) {
  Storage near(16, 128, scales);
  Storage far(16, 128, scales);
  far.ramp.first_byte(milliseconds(400));
  near.run(milliseconds(500));
  far.run(milliseconds(500));
  EXPECT_EQ(near.ramp.limit(), 128U);
  EXPECT_EQ(far.ramp.limit(), 16U);
  far.run(seconds(5));
  EXPECT_EQ(far.ramp.limit(), 128U);
}

TEST(Ramp, AnHourToTheFirstByteDoesNotStopIt) {
  Storage storage(16, 128, scales);
  storage.ramp.first_byte(std::chrono::hours(1));
  storage.run(seconds(10));
  EXPECT_EQ(storage.ramp.limit(), 128U);
}

TEST(Ramp, ThrottlingHalvesOnceForAllThatAreTold) {
  Storage storage(64, 128, scales);
  for (int i = 0; i < 64; ++i) storage.ramp.throttled(storage.now + milliseconds(i));
  EXPECT_EQ(storage.ramp.limit(), 32U);
  EXPECT_EQ(storage.ramp.best(), 32U);
  storage.ramp.throttled(storage.now + milliseconds(600));
  EXPECT_EQ(storage.ramp.limit(), 16U);
}

TEST(Ramp, ThrottlingLeavesOneConnection) {
  Storage storage(4, 8, scales);
  for (int i = 0; i < 10; ++i) {
    storage.now += seconds(1);
    storage.ramp.throttled(storage.now);
    EXPECT_GE(storage.ramp.limit(), 1U);
  }
  EXPECT_EQ(storage.ramp.limit(), 1U);
}

TEST(Ramp, GrowsAgainAfterThrottling) {
  Storage storage(64, 64, scales);
  storage.run(seconds(1));
  storage.ramp.throttled(storage.now);
  EXPECT_EQ(storage.ramp.limit(), 32U);
  storage.most_seen = 0;
  storage.run(milliseconds(1900));
  EXPECT_EQ(storage.most_seen, 32U) << "too soon";
  storage.run(seconds(10));
  EXPECT_EQ(storage.ramp.limit(), 64U);
}

TEST(Ramp, OneFixedNumberOnlyMovesWhenThrottled) {
  Storage storage(8, 8, scales);
  storage.run(seconds(30));
  EXPECT_EQ(storage.most_seen, 8U);
  EXPECT_EQ(storage.least_seen, 8U);
}

TEST(Ramp, StorageThatDeliversNothingDoesNotGrowIt) {
  Storage storage(16, 128, [](std::uint32_t) { return 0.0; });
  storage.run(seconds(60));
  EXPECT_LE(storage.most_seen, 32U);
  EXPECT_GE(storage.least_seen, 1U);
}

}  // namespace
}  // namespace weightstream
