// Hill climbing against made-up storage: a clock that the test moves, and throughput as a function of the reads in
// flight.
#include "storage/concurrency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>

namespace weightstream {
namespace {

using Clock = Concurrency::Clock;

constexpr std::uint64_t kReadBytes = 1 << 20;

// Storage whose bytes per second depend on how many reads are in flight.
class Storage {
 public:
  using Curve = std::function<double(std::uint32_t in_flight)>;
  explicit Storage(Curve curve) : curve_(std::move(curve)) {}

  void set(Curve curve) { curve_ = std::move(curve); }
  // Completes `reads` reads, with as many in flight as `concurrency` says.
  void run(Concurrency& concurrency, int reads) {
    for (int i = 0; i < reads; ++i) {
      const double seconds = static_cast<double>(kReadBytes) / curve_(concurrency.limit());
      now_ += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
      const auto limit = concurrency.completed(kReadBytes, now_);
      ASSERT_EQ(limit, concurrency.limit());
      most_ = std::max(most_, limit);
    }
  }
  [[nodiscard]] Clock::time_point now() const { return now_; }
  [[nodiscard]] std::uint32_t most() const { return most_; }

 private:
  Curve curve_;
  Clock::time_point now_{};
  std::uint32_t most_ = 0;
};

// Grows in proportion to the reads in flight up to `places`, then stays.
Storage::Curve scales_up_to(std::uint32_t places, double each = 50e6) {
  return [=](std::uint32_t in_flight) { return each * std::min(in_flight, places); };
}

TEST(Concurrency, GrowsToTheMostWhileItPays) {
  Concurrency concurrency(2, 64);
  Storage storage(scales_up_to(1000));
  storage.run(concurrency, 5000);
  EXPECT_EQ(concurrency.limit(), 64U);
}

TEST(Concurrency, SettlesWhereMoreDoesNotPay) {
  Concurrency concurrency(2, 64);
  Storage storage(scales_up_to(16));
  storage.run(concurrency, 5000);
  EXPECT_EQ(concurrency.limit(), 16U);
  EXPECT_EQ(storage.most(), 32U) << "one step too far, to find out";
}

TEST(Concurrency, StaysAtTheStartWhereGrowingDoesNotPay) {
  Concurrency concurrency(4, 64);
  Storage storage([](std::uint32_t) { return 100e6; });
  storage.run(concurrency, 2000);
  EXPECT_EQ(concurrency.limit(), 4U);
}

TEST(Concurrency, StepsBackWhereMoreHurts) {
  Concurrency concurrency(2, 64);
  Storage storage([](std::uint32_t in_flight) { return in_flight <= 8 ? 50e6 * in_flight : 100e6; });
  storage.run(concurrency, 5000);
  EXPECT_EQ(concurrency.limit(), 8U);
}

TEST(Concurrency, ClimbsAgainWhenTheStorageChanged) {
  Concurrency concurrency(2, 64);
  Storage storage(scales_up_to(4));
  storage.run(concurrency, 2000);
  ASSERT_EQ(concurrency.limit(), 4U);
  storage.set(scales_up_to(64, 10e6));  // slower for each, but it takes many more
  storage.run(concurrency, 5000);
  EXPECT_EQ(concurrency.limit(), 64U);
}

TEST(Concurrency, SmallSwingsDoNotMoveIt) {
  Concurrency concurrency(2, 64);
  Storage storage(scales_up_to(8));
  storage.run(concurrency, 3000);
  ASSERT_EQ(concurrency.limit(), 8U);
  storage.set([](std::uint32_t) { return 300e6; });  // three quarters of what it was
  storage.run(concurrency, 3000);
  EXPECT_EQ(concurrency.limit(), 8U);
}

TEST(Concurrency, IsFixedWhenStartIsTheMost) {
  Concurrency concurrency(7, 7);
  Storage storage(scales_up_to(1000));
  storage.run(concurrency, 2000);
  EXPECT_EQ(concurrency.limit(), 7U);
  storage.set(scales_up_to(1000, 1e6));
  storage.run(concurrency, 2000);
  EXPECT_EQ(concurrency.limit(), 7U);
}

TEST(Concurrency, NeverLeavesItsBounds) {
  EXPECT_EQ(Concurrency(0, 8).limit(), 1U);
  EXPECT_EQ(Concurrency(100, 8).limit(), 8U);
  EXPECT_EQ(Concurrency(0, 0).limit(), 1U);
  Concurrency concurrency(3, 10);  // 3, 6, then 10: not 12
  Storage storage(scales_up_to(1000));
  storage.run(concurrency, 5000);
  EXPECT_EQ(concurrency.limit(), 10U);
}

TEST(Concurrency, OneSlowReadDoesNotDecide) {
  Concurrency concurrency(8, 64);
  Clock::time_point now{};
  concurrency.starved(now);
  // A window holds at least two reads of every place in flight, however long they take.
  for (int read = 0; read < 15; ++read) {
    now += std::chrono::seconds(1);
    EXPECT_EQ(concurrency.completed(kReadBytes, now), 8U);
  }
  now += std::chrono::seconds(1);
  EXPECT_EQ(concurrency.completed(kReadBytes, now), 16U);
}

TEST(Concurrency, BurstIsNoWindow) {
  Concurrency concurrency(2, 64);
  const Clock::time_point now{};
  for (int read = 0; read < 1000; ++read) EXPECT_EQ(concurrency.completed(kReadBytes, now), 2U);
}

// Waiting for the consumer must not look like slow storage.
TEST(Concurrency, TimeWithoutWorkDoesNotCount) {
  Concurrency concurrency(2, 64);
  Storage storage(scales_up_to(8));
  storage.run(concurrency, 3000);
  ASSERT_EQ(concurrency.limit(), 8U);
  auto now = storage.now();
  for (int pause = 0; pause < 100; ++pause) {
    for (int read = 0; read < 10; ++read) {
      now += std::chrono::milliseconds(1);
      ASSERT_EQ(concurrency.completed(kReadBytes, now), 8U);
    }
    now += std::chrono::seconds(10);
    concurrency.starved(now);
  }
}

}  // namespace
}  // namespace weightstream
