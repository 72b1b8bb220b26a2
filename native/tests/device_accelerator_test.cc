// One device: its context, what is current on a thread, pinned memory, and what is left of it after a fork.
#include "device/accelerator.h"

#include <gtest/gtest.h>

#include <array>
#include <cstdlib>

#include "device/copy_stream.h"
#include "fake_driver/loaded_fake.h"
#include "process_state.h"

namespace weightstream {
namespace {

using testing::FakeDeviceTest;
using testing::in_child;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class AcceleratorTest : public FakeDeviceTest {
 protected:
  [[nodiscard]] std::shared_ptr<Accelerator> open(int ordinal = 0) const {
    auto opened = Accelerator::open(open_driver(), ordinal);
    EXPECT_TRUE(opened.ok()) << opened.error().message;
    return std::move(opened).value();
  }
  alignas(4096) std::array<std::byte, 8192> host{};
};

TEST_P(AcceleratorTest, RetainsTheContextWhileItLives) {
  {
    const auto first = open(1);
    EXPECT_EQ(first->label(), "cuda:1");
    EXPECT_EQ(first->name(), "Fake Device 1");
    EXPECT_EQ(first->pci_bus_id(), cuda() ? "0000:3B:00.0" : "0000:3b:00.0");
    EXPECT_LT(first->copy_priority(), 0);
    const auto second = open(1);
    EXPECT_EQ(fake.counts().contexts, cuda() ? 2U : 0U);
  }
  EXPECT_EQ(fake.counts().contexts, 0U);
  EXPECT_EQ(fake.counts().violations, 0U);
}

TEST_P(AcceleratorTest, NoSuchOrdinalSaysHowManyThereAreAndWhatDecidesThat) {
  const char* variable = cuda() ? "CUDA_VISIBLE_DEVICES" : "HIP_VISIBLE_DEVICES";
  ::setenv(variable, "3,5", 1);
  for (const int ordinal : {-1, 2, 1000}) {
    const auto opened = Accelerator::open(open_driver(), ordinal);
    ASSERT_FALSE(opened.ok());
    EXPECT_EQ(opened.error().code, ErrorCode::kDevice);
    const std::string& message = opened.error().message;
    EXPECT_TRUE(has(message, "cuda:" + std::to_string(ordinal))) << message;
    EXPECT_TRUE(has(message, "shows 2 devices")) << message;
    EXPECT_TRUE(has(message, std::string(variable) + "=3,5")) << message;
  }
  ::unsetenv(variable);
  EXPECT_EQ(fake.counts().contexts, 0U);
}

TEST_P(AcceleratorTest, WhateverWasCurrentIsCurrentAgain) {
  const auto other = open(1);  // retains the context that other code of the process has current
  for (const bool something_is_current : {false, true}) {
    if (something_is_current) fake.make_current(1);
    int mode = something_is_current ? 1 : 0;
    ASSERT_TRUE(other->table().exchange_capture_mode(&mode).ok());
    const int capture_mode = fake.capture_mode();
    void* const before = fake.current_context();
    const auto depth = fake.context_depth();
    const auto unchanged = [&](const char* after) {
      EXPECT_EQ(fake.capture_mode(), capture_mode) << after;
      EXPECT_EQ(fake.current_context(), before) << after;
      EXPECT_EQ(fake.context_depth(), depth) << after;
    };
    const auto device = open(0);
    unchanged("open");
    ASSERT_TRUE(device->register_host(host.data(), host.size()).ok());
    unchanged("register");
    {
      auto stream = CopyStream::create(device);
      ASSERT_TRUE(stream.ok());
      auto event = DeviceEvent::create(device);
      ASSERT_TRUE(event.ok());
      unchanged("create");
      ASSERT_TRUE((*stream)->copy(fake.allocate(100), host.data(), 100).ok());
      ASSERT_TRUE((*stream)->wait_for(ForeignStream{0}).ok());
      ASSERT_TRUE((*stream)->record(*event).ok());
      unchanged("queue");
      const auto reached = event->wait_for(testing::kPatience);
      ASSERT_TRUE(reached.ok());
      EXPECT_TRUE(*reached);
      unchanged("wait");
      // A call that fails leaves as much.
      EXPECT_FALSE((*stream)->wait_for(ForeignStream{0xBAD}).ok());
      unchanged("failure");
    }
    unchanged("destroy");
    device->unregister_host(host.data());
    unchanged("unregister");
  }
}

TEST_P(AcceleratorTest, KnowsWhetherItSharesTheMemoryOfTheHost) {
  EXPECT_FALSE(open()->integrated());
  fake.set_integrated(1);
  EXPECT_TRUE(open()->integrated());
  fake.fail(open()->table().device_attribute.name, 1, 1, 0);
  EXPECT_FALSE(open()->integrated()) << "a driver that does not know is no reason to fail";
}

TEST_P(AcceleratorTest, DeviceIsCurrentInside) {
  const auto device = open(1);
  fake.make_current(1);
  void* const own = fake.current_context();
  fake.make_current(0);
  void* inside = nullptr;
  const auto done = device->within([&]() -> Status {
    inside = fake.current_context();
    return Ok{};
  });
  ASSERT_TRUE(done.ok());
  EXPECT_EQ(inside, own);
  EXPECT_NE(fake.current_context(), own);
}

TEST_P(AcceleratorTest, PinnedMemoryIsCounted) {
  const auto device = open();
  ASSERT_TRUE(device->register_host(host.data(), 4096).ok());
  ASSERT_TRUE(device->register_host(host.data() + 4096, 4096).ok());
  EXPECT_EQ(fake.counts().registered_bytes, 8192U);
  device->unregister_host(host.data());
  EXPECT_EQ(fake.counts().registered_bytes, 4096U);
  device->unregister_host(host.data() + 4096);
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
}

TEST_P(AcceleratorTest, NoMemoryToPinIsSaidWithTheDevice) {
  fake.set_register_limit(4096);
  const auto device = open();
  const auto status = device->register_host(host.data(), host.size());
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().code, ErrorCode::kDevice);
  const std::string& message = status.error().message;
  EXPECT_TRUE(has(message, "cuda:0 (Fake Device 0)")) << message;
  EXPECT_TRUE(has(message, cuda() ? "CUDA_ERROR_OUT_OF_MEMORY" : "hipErrorOutOfMemory")) << message;
  EXPECT_TRUE(has(message, "memory_limit")) << message;
  EXPECT_FALSE(device->lost());
  EXPECT_EQ(fake.last_error(), 0) << "a framework that asks for the thread's last error would find ours";
}

// The pages were unmapped although they could not be unregistered; now their addresses are in use again.
TEST_P(AcceleratorTest, RegistrationThatOutlivedItsMemoryIsReplaced) {
  const auto device = open();
  ASSERT_TRUE(device->register_host(host.data(), 4096).ok());
  fake.fail(device->table().host_unregister.name, 1, 1, 0);
  device->unregister_host(host.data());
  EXPECT_EQ(fake.counts().registered_bytes, 4096U);
  EXPECT_TRUE(device->register_host(host.data(), 8192).ok());
  device->unregister_host(host.data());
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
}

TEST_P(AcceleratorTest, ForkedChildCallsNothing) {
  auto device = open();
  ASSERT_TRUE(device->register_host(host.data(), host.size()).ok());
  auto stream = CopyStream::create(device);
  ASSERT_TRUE(stream.ok());
  auto event = DeviceEvent::create(device);
  ASSERT_TRUE(event.ok());
  const int result = in_child([&] {
    const auto refused = [](const auto& outcome) {
      return !outcome.ok() && outcome.error().code == ErrorCode::kClosed;
    };
    if (!refused(device->register_host(host.data(), 4096))) return 1;
    if (!refused(CopyStream::create(device)) || !refused(DeviceEvent::create(device))) return 2;
    if (!refused((*stream)->copy(1, host.data(), 1)) || !refused((*stream)->wait_for(*event))) return 3;
    if (!refused((*stream)->wait_for(ForeignStream{0})) || !refused((*stream)->record(*event))) return 4;
    if (!refused(event->reached()) || !refused(event->wait_for(testing::kPatience))) return 5;
    if (!refused((*stream)->wait_idle(testing::kPatience)) || !refused(event->record(0))) return 6;
    device->unregister_host(host.data());
    stream->reset();
    {
      const DeviceEvent dies = std::move(*event);
    }
    device.reset();
    return fake.counts().calls_after_fork == 0 ? 0 : 7;
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(fake.counts().registered_bytes, host.size()) << "the parent's are as they were";
  EXPECT_TRUE((*stream)->copy(fake.allocate(8), host.data(), 8).ok());
  const auto idle = (*stream)->wait_idle(testing::kPatience);
  EXPECT_TRUE(idle.ok() && *idle);
  device->unregister_host(host.data());
}

INSTANTIATE_TEST_SUITE_P(Vendors, AcceleratorTest, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

}  // namespace
}  // namespace weightstream
