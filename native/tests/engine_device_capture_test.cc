// Streams while a graph is being captured, as frameworks do it: a call that could wait, by any thread of the process,
// ends the capture unless it says that it is none of its business. Reads, copies, pinning and closing go on.
#include <gtest/gtest.h>

#include <future>
#include <thread>
#include <utility>

#include "device_stream_harness.h"

namespace weightstream {
namespace {

using testing::DeviceStreamTest;
using testing::eventually;
using testing::kMiB;

constexpr int kCaptureGlobal = 0;
constexpr int kCaptureUnsupported = 900;
constexpr int kCaptureInvalidated = 901;

class EngineDeviceCapture : public DeviceStreamTest {
 protected:
  // Runs `body` while another thread captures. What the end of the capture says.
  template <typename Body>
  int while_another_thread_captures(Body body) {
    std::promise<void> begun;
    std::promise<void> over;
    int outcome = -1;
    std::thread capturer([&] {
      void* const stream = fake.foreign_stream(1, 0);
      fake.begin_capture(stream, kCaptureGlobal);
      begun.set_value();
      over.get_future().wait();
      outcome = fake.end_capture(stream);
    });
    begun.get_future().wait();
    body();
    over.set_value();
    capturer.join();
    return outcome;
  }

  void load() {
    auto stream = start_stream(options_for_device(3, 2 * kMiB));
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    const auto consumed = consume_on_device(**stream);
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "");
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
    (*stream)->close();
  }
};

INSTANTIATE_TEST_SUITE_P(Vendors, EngineDeviceCapture, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

// Or the tests below could not fail.
TEST_P(EngineDeviceCapture, IsEndedByAQueryThatSaysNothing) {
  auto event = DeviceEvent::create(device_);
  ASSERT_TRUE(event.ok());
  const int outcome = while_another_thread_captures([&] {
    void* made = nullptr;
    fake.make_current(1);
    EXPECT_EQ(device_->table().event_create(&made, 0).status, kCaptureUnsupported);
  });
  EXPECT_EQ(outcome, kCaptureInvalidated);
}

TEST_P(EngineDeviceCapture, OfAnotherThreadGoesOnUnderAWholeLoad) {
  const int outcome = while_another_thread_captures([&] {
    load();
    slots_->release_idle();  // unpins
    EXPECT_EQ(fake.counts().registered_bytes, 0U);
    auto opened = Accelerator::open(open_driver(), 0);
    EXPECT_TRUE(opened.ok());
  });
  EXPECT_EQ(outcome, 0);
}

TEST_P(EngineDeviceCapture, OfAnotherThreadGoesOnUnderCopiesThatOutliveTheirStream) {
  const int outcome = while_another_thread_captures([&] {
    auto stream = start_stream(options_for_device(1, 2 * kMiB));
    ASSERT_TRUE(stream.ok());
    ASSERT_TRUE(top_up(**stream, {.kernel_us = 250'000}));
    ASSERT_TRUE(eventually([&] { return fake.calls(device_->table().copy_to_device.name) > 0; }));
    (*stream)->close();
    EXPECT_GT(slots_->stats().slots_in_use, 0U) << "the copies are over already";
    EXPECT_TRUE(eventually([&] { return slots_->stats().slots_in_use == 0; }));
  });
  EXPECT_EQ(outcome, 0);
}

TEST_P(EngineDeviceCapture, OfTheConsumerOnAnotherStreamGoesOn) {
  void* const stream = fake.foreign_stream(1, 0);
  fake.begin_capture(stream, kCaptureGlobal);
  load();
  EXPECT_EQ(fake.end_capture(stream), 0);
}

}  // namespace
}  // namespace weightstream
