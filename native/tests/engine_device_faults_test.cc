// The k-th call of each driver function fails under a whole stream, for k = 1, 2, ... until a clean run; and the device
// is lost there. Every time: right bytes or a DeviceError in bounded time, nothing left, and the next stream works.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "device_stream_harness.h"

namespace weightstream {
namespace {

using testing::Consumed;
using testing::DeviceStreamTest;
using testing::kMiB;

constexpr int kOutOfMemory = 2;
constexpr int kIllegalAddress = 700;

class EngineDeviceFaults : public DeviceStreamTest {
 protected:
  void SetUp() override {
    DeviceStreamTest::SetUp();
    fake.set_timing(10, 0, 10);
    checkpoint_ = testing::make_checkpoint(folder_, {{kMiB, 600, 5000, 2 * kMiB + 7, 70'000}});
  }

  // Those that a stream calls, beside what opens the device.
  [[nodiscard]] std::vector<const char*> functions() const {
    if (cuda()) {
      return {"cuStreamCreateWithPriority", "cuStreamWaitEvent", "cuEventCreate", "cuEventRecord", "cuEventQuery",
              "cuMemcpyHtoDAsync_v2"};
    }
    return {"hipStreamCreateWithPriority",
            "hipStreamWaitEvent",
            "hipEventCreateWithFlags",
            "hipEventRecord",
            "hipEventQuery",
            "hipMemcpyHtoDAsync"};
  }
  [[nodiscard]] const char* pin_call() const { return cuda() ? "cuMemHostRegister_v2" : "hipHostRegister"; }
  // Those that make the device current. Where they fail, what was to end may stay.
  [[nodiscard]] std::vector<const char*> switches() const {
    if (cuda()) return {"cuCtxPushCurrent_v2", "cuCtxPopCurrent_v2"};
    return {"hipSetDevice"};
  }

  void fail_every_call(const std::string& function);
  void begin_anew(std::uint64_t seed);

  std::optional<Error> run() {
    auto stream = start_stream(options_for_device(2, 3 * kMiB));
    if (!stream) return std::move(stream).error();
    const auto consumed = consume_on_device(**stream, {.at_a_time = kMiB, .kernel_us = 20});
    (*stream)->close();
    EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
    if (consumed.error) return consumed.error;
    EXPECT_TRUE(consumed.ended);
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
    return std::nullopt;
  }
};

void EngineDeviceFaults::fail_every_call(const std::string& function) {
  std::uint32_t k = 1;
  while (true) {
    SCOPED_TRACE(function + " call " + std::to_string(k));
    watchdog_.begin(function + " call " + std::to_string(k));
    const auto before = fake.calls(function.c_str());
    fake.fail(function.c_str(), k, kOutOfMemory, 0);
    const auto error = run();
    const bool happened = fake.calls(function.c_str()) >= before + k;
    fake.fail("", 0, 0, 0);
    free_memory();
    EXPECT_STREQ(fake.violation(), "");
    if (error) {
      EXPECT_TRUE(happened) << error->message;
      EXPECT_EQ(error->code, ErrorCode::kDevice) << error->message;
      EXPECT_NE(error->message.find(function), std::string::npos) << error->message;
      EXPECT_NE(error->message.find("cuda:1"), std::string::npos) << error->message;
      EXPECT_TRUE(k % 8 != 1 || run() == std::nullopt) << "the next one works";
    }
    if (!happened) {
      EXPECT_FALSE(error.has_value());
      break;
    }
    ASSERT_LT(++k, 400U) << "no run is ever clean";
  }
  EXPECT_GT(k, 1U) << function << " is never called";
}

// With a driver that has forgotten everything.
void EngineDeviceFaults::begin_anew(std::uint64_t seed) {
  free_memory();
  slots_->release_idle();
  slots_.reset();
  device_.reset();
  fake.reset(seed);
  fake.set_timing(10, 0, 10);
  device_ = Accelerator::open(open_driver(), 1).value();
  slots_ = SlotPool::create({.idle_time = std::chrono::hours(1)});
  current_ = reinterpret_cast<ForeignStream>(fake.foreign_stream(1, 1));
}

INSTANTIATE_TEST_SUITE_P(Vendors, EngineDeviceFaults, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

TEST_P(EngineDeviceFaults, FailTheKthCall) {
  for (const std::string function : functions()) fail_every_call(function);
}

TEST_P(EngineDeviceFaults, FailTheKthSwitchToTheDevice) {
  for (const std::string function : switches()) fail_every_call(function);
  begin_anew(1);
}

TEST_P(EngineDeviceFaults, LoseTheDeviceInTheKthCopy) {
  const auto driver = open_driver();
  for (std::uint32_t k = 1;; ++k) {
    SCOPED_TRACE("copy " + std::to_string(k));
    watchdog_.begin("copy " + std::to_string(k));
    fake.fail("copy", k, kIllegalAddress, 1);
    const auto error = run();
    fake.fail("", 0, 0, 0);
    if (!error) {
      EXPECT_GT(k, 1U);
      break;
    }
    EXPECT_EQ(error->code, ErrorCode::kDevice);
    EXPECT_NE(error->message.find("illegal memory access"), std::string::npos) << error->message;
    EXPECT_TRUE(error->source.empty() || error->source == checkpoint_.files[0].path) << error->source;
    EXPECT_TRUE(device_->lost());
    EXPECT_EQ(fake.counts().copies, k - 1);
    begin_anew(k);  // a context that is lost stays so
  }
}

// Out of memory that is not pinned the same holds, with one call less that can fail.
TEST_P(EngineDeviceFaults, FailTheKthCallWithoutPinnedMemory) {
  fake.set_register_limit(0);
  for (const std::string function : functions()) {
    if (function.find("WaitEvent") == std::string::npos) fail_every_call(function);
  }
  EXPECT_GT(fake.counts().pageable_copies, 0U);
  EXPECT_GT(slots_->stats().pageable_bytes, 0U);
}

TEST_P(EngineDeviceFaults, FailTheKthPinning) {
  for (std::uint32_t k = 1; k <= 2; ++k) {
    slots_->release_idle();
    fake.fail(pin_call(), k, kOutOfMemory, 0);
    EXPECT_EQ(run(), std::nullopt);
    EXPECT_EQ(slots_->stats().pageable_bytes > 0, k == 1) << "what is pinned already does";
  }
  fake.fail("", 0, 0, 0);
}

TEST_P(EngineDeviceFaults, LoseTheDeviceInAPinning) {
  slots_->release_idle();
  fake.fail(pin_call(), 1, kIllegalAddress, 1);
  const auto error = run();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kDevice);
  EXPECT_TRUE(device_->lost());
  begin_anew(1);
}

TEST_P(EngineDeviceFaults, LoseTheDeviceUnderCopiesOfPageableMemory) {
  fake.set_register_limit(0);
  for (std::uint32_t k = 1;; ++k) {
    watchdog_.begin("pageable copy " + std::to_string(k));
    fake.fail("copy", k, kIllegalAddress, 1);
    const auto error = run();
    fake.fail("", 0, 0, 0);
    if (!error) break;
    EXPECT_EQ(error->code, ErrorCode::kDevice);
    begin_anew(k);
    fake.set_register_limit(0);
  }
}

TEST_P(EngineDeviceFaults, LimitBelowASlotSaysWhatIsNeeded) {
  auto options = options_for_device();
  options.memory_limit = kMiB;
  const auto stream = start(checkpoint_, options);
  ASSERT_FALSE(stream.ok());
  EXPECT_EQ(stream.error().code, ErrorCode::kConfig);
}

}  // namespace
}  // namespace weightstream
