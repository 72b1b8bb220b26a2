// Streams where the system refuses to pin memory: they load all the same, within the same limits, and say why.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "device_stream_harness.h"

namespace weightstream {
namespace {

using testing::Consumed;
using testing::DeviceStreamTest;
using testing::eventually;
using testing::kMiB;

class EngineDevicePageable : public DeviceStreamTest {
 protected:
  void SetUp() override {
    DeviceStreamTest::SetUp();
    fake.set_register_limit(0);
  }
  void expect_all(const Consumed& consumed) const {
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "not ended");
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
  }
  static std::size_t warnings(Stream& stream) {
    const auto lines = stream.drain_log();
    return static_cast<std::size_t>(std::count_if(lines.begin(), lines.end(), [](const LogLine& line) {
      return line.level == LogLevel::kWarning && line.text.find("not pinned") != std::string::npos;
    }));
  }
};

INSTANTIATE_TEST_SUITE_P(Vendors, EngineDevicePageable, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

TEST_P(EngineDevicePageable, HandsOutEveryByteAndSaysWhyOnce) {
  for (const std::uint64_t slots : {1, 2, 5}) {
    for (const std::uint64_t limit : {std::uint64_t{1}, 6 * kMiB, std::uint64_t{0}}) {
      watchdog_.begin("slots " + std::to_string(slots) + " limit " + std::to_string(limit));
      auto stream = start_stream(options_for_device(slots, limit));
      ASSERT_TRUE(stream.ok()) << stream.error().message;
      expect_all(consume_on_device(**stream, {.kernel_us = 1000}));
      EXPECT_LE((*stream)->stats().peak_host_bytes, slots * Slot::kBytes);
      EXPECT_EQ(warnings(**stream), 1U);
      const auto why = (*stream)->not_pinned();
      ASSERT_TRUE(why.has_value());
      EXPECT_EQ(why->first, "cuda:1");
      EXPECT_NE(why->second.find(cuda() ? "cuMemHostRegister" : "hipHostRegister"), std::string::npos) << why->second;
    }
  }
  EXPECT_GT(fake.counts().pageable_copies, 0U);
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
}

TEST_P(EngineDevicePageable, GoesOnWithWhatCouldBePinned) {
  fake.set_register_limit(2 * Slot::kBytes);
  auto stream = start_stream(options_for_device(8));
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  EXPECT_EQ(fake.counts().pageable_copies, 0U);
  EXPECT_EQ(warnings(**stream), 0U);
  EXPECT_FALSE((*stream)->not_pinned());
}

// The driver would wait for the kernel inside the call that copies.
TEST_P(EngineDevicePageable, ClosingDoesNotWaitForKernelsOfOthers) {
  auto stream = start_stream(options_for_device(1, 2 * kMiB));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(top_up(**stream, {.kernel_us = 1'500'000}));
  ASSERT_TRUE(eventually([&] { return (*stream)->stats().reads > 0; }));
  const auto begin = Stream::Clock::now();
  (*stream)->close();
  EXPECT_LT(Stream::Clock::now() - begin, std::chrono::milliseconds(1400));
  EXPECT_EQ(slots_->stats().slots_in_use, 0U) << "nothing reads them";
  EXPECT_EQ(fake.counts().pageable_copies, 0U);
}

// Nor for the copies before: a second one, queued at once, would keep the thread in the driver until the first ends.
TEST_P(EngineDevicePageable, ClosingDoesNotWaitForTheCopiesBefore) {
  checkpoint_ = testing::make_checkpoint(folder_, {{24 * kMiB, 8 * kMiB}});
  fake.set_timing(1'600'000, 0, 0);  // and half of that at least
  auto stream = start_stream(options_for_device(2));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(top_up(**stream, {.at_a_time = 64 * kMiB, .kernel_us = 0}));
  ASSERT_TRUE(eventually([&] { return fake.counts().pageable_copies > 0 && (*stream)->stats().reads > 1; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(30));  // until the second is there, too
  const auto begin = Stream::Clock::now();
  (*stream)->close();
  EXPECT_LT(Stream::Clock::now() - begin, std::chrono::milliseconds(600));
  EXPECT_EQ(fake.counts().pageable_copies, 1U);
  EXPECT_TRUE(eventually([&] { return slots_->stats().slots_in_use == 0; }));
}

TEST_P(EngineDevicePageable, CanBeClosedAtAnyItem) {
  for (std::size_t stop_at : {1, 2, 8, 150}) {
    auto stream = start_stream(options_for_device(2, 4 * kMiB));
    ASSERT_TRUE(stream.ok());
    std::size_t taken = 0;
    consume_on_device(**stream, {.with = [&](std::uint32_t) { return ++taken < stop_at; }});
    (*stream)->close();
    EXPECT_TRUE(eventually([&] { return slots_->stats().slots_in_use == 0; }));
    free_memory();
    EXPECT_STREQ(fake.violation(), "");
  }
}

}  // namespace
}  // namespace weightstream
