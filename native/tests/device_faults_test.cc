// The k-th call of every driver function fails, for k = 1, 2, ... until a clean run: the error names the call and the
// device, nothing is left, and the next run works. The same with failures that lose the device.
#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/copy_stream.h"
#include "device/pinning.h"
#include "fake_driver/loaded_fake.h"
#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

using std::chrono::steady_clock;
using testing::FakeDeviceTest;
using testing::kPatience;

constexpr int kOutOfMemory = 2;
constexpr int kIllegalAddress = 700;
constexpr std::uint64_t kBytes = 8192;

// What a failure of a function means.
enum class Fatal {
  kYes,   // the load fails
  kNo,    // it is worth nothing to know, or ends what is over anyway
  kHalf,  // either, depending on where it happens
  kLeave,  // the same, but whatever was to be ended was
};

struct Function {
  const char* name;
  Fatal fatal;
};

constexpr Function kCudaFunctions[] = {{"cuInit", Fatal::kYes},
                                       {"cuDeviceGetCount", Fatal::kYes},
                                       {"cuDeviceGet", Fatal::kYes},
                                       {"cuDeviceGetName", Fatal::kYes},
                                       {"cuDeviceGetPCIBusId", Fatal::kNo},
                                       {"cuDeviceGetAttribute", Fatal::kNo},
                                       {"cuThreadExchangeStreamCaptureMode", Fatal::kHalf},
                                       {"cuDevicePrimaryCtxRetain", Fatal::kYes},
                                       {"cuDevicePrimaryCtxRelease_v2", Fatal::kNo},
                                       {"cuCtxPushCurrent_v2", Fatal::kHalf},
                                       {"cuCtxPopCurrent_v2", Fatal::kLeave},
                                       {"cuCtxGetStreamPriorityRange", Fatal::kYes},
                                       {"cuStreamCreateWithPriority", Fatal::kYes},
                                       {"cuStreamDestroy_v2", Fatal::kNo},
                                       {"cuStreamWaitEvent", Fatal::kYes},
                                       {"cuStreamQuery", Fatal::kYes},
                                       {"cuEventCreate", Fatal::kYes},
                                       {"cuEventDestroy_v2", Fatal::kNo},
                                       {"cuEventRecord", Fatal::kYes},
                                       {"cuEventQuery", Fatal::kYes},
                                       {"cuMemHostRegister_v2", Fatal::kYes},
                                       {"cuMemHostUnregister", Fatal::kNo},
                                       {"cuMemcpyHtoDAsync_v2", Fatal::kYes}};

constexpr Function kHipFunctions[] = {{"hipInit", Fatal::kYes},
                                      {"hipGetDeviceCount", Fatal::kYes},
                                      {"hipDeviceGet", Fatal::kYes},
                                      {"hipDeviceGetName", Fatal::kYes},
                                      {"hipDeviceGetPCIBusId", Fatal::kNo},
                                      {"hipDeviceGetAttribute", Fatal::kNo},
                                      {"hipThreadExchangeStreamCaptureMode", Fatal::kHalf},
                                      {"hipGetDevice", Fatal::kHalf},
                                      {"hipSetDevice", Fatal::kHalf},
                                      {"hipDeviceGetStreamPriorityRange", Fatal::kYes},
                                      {"hipStreamCreateWithPriority", Fatal::kYes},
                                      {"hipStreamDestroy", Fatal::kNo},
                                      {"hipStreamWaitEvent", Fatal::kYes},
                                      {"hipStreamQuery", Fatal::kYes},
                                      {"hipEventCreateWithFlags", Fatal::kYes},
                                      {"hipEventDestroy", Fatal::kNo},
                                      {"hipEventRecord", Fatal::kYes},
                                      {"hipEventQuery", Fatal::kYes},
                                      {"hipHostRegister", Fatal::kYes},
                                      {"hipHostUnregister", Fatal::kNo},
                                      {"hipMemcpyHtoDAsync", Fatal::kYes}};

class DeviceFaultsTest : public FakeDeviceTest {
 protected:
  [[nodiscard]] std::span<const Function> functions() const {
    return cuda() ? std::span<const Function>(kCudaFunctions) : std::span<const Function>(kHipFunctions);
  }

  // A whole load in small: every function of the table is called. The second device, so that HIP has one to switch to.
  std::optional<Error> run() {
    auto driver = Driver::open(GetParam(), fake.path);
    if (!driver) return driver.error();
    auto opened = Accelerator::open(*driver, 1);
    if (!opened) return opened.error();
    device = *opened;
    DevicePinner pinner(device);
    if (auto pinned = pinner.pin(host.data(), host.size()); !pinned) return pinned.error();
    auto done = copy();
    pinner.unpin(host.data(), host.size());
    return done ? std::nullopt : std::optional(done.error());
  }

  Status copy() {
    const std::uint64_t target = fake.allocate(kBytes);
    const auto theirs = reinterpret_cast<ForeignStream>(fake.foreign_stream(1, 1));
    testing::fill_pattern(host, 1, 0);
    auto stream = CopyStream::create(device);
    if (!stream) return stream.error();
    auto event = DeviceEvent::create(device);
    if (!event) return event.error();
    if (auto status = (*stream)->wait_for(theirs); !status) return status;
    if (auto status = event->record(theirs); !status) return status;
    if (auto status = (*stream)->wait_for(*event); !status) return status;
    auto status = (*stream)->copy(target, host.data(), kBytes);
    if (status) status = (*stream)->record(*event);
    if (status) status = settled(event->wait_for(kPatience));
    // Pinned memory is not let go under a copy, unless the device is lost.
    const auto idle = settled((*stream)->wait_idle(kPatience));
    if (!idle && !device->lost()) {
      EXPECT_TRUE(settled((*stream)->wait_idle(kPatience)));
    }
    if (status && idle) {
      EXPECT_EQ(testing::first_wrong(fake.content(target, kBytes), 1, 0), std::nullopt);
    }
    return status ? idle : status;
  }
  static Status settled(Result<bool> result) {
    if (!result) return std::move(result).error();
    EXPECT_TRUE(*result) << "nothing may take that long";
    return Ok{};
  }

  void expect_clean(const std::string& what, std::uint64_t may_stay = 0) {
    device.reset();
    const FakeCounts left = fake.counts();
    EXPECT_LE(left.registered_bytes / kBytes + left.streams + left.events + left.contexts, may_stay) << what;
    if (may_stay == 0) {
      EXPECT_EQ(fake.violation(), std::string()) << what;
    }
  }

  alignas(4096) std::array<std::byte, kBytes> host{};
  std::shared_ptr<Accelerator> device;
};

TEST_P(DeviceFaultsTest, FunctionThatFailsOnce) {
  for (const Function& function : functions()) {
    std::uint32_t k = 1;
    for (;; ++k) {
      const std::string what = std::string(function.name) + " call " + std::to_string(k);
      fake.reset(k);
      fake.set_timing(20, 0, 20);
      fake.fail(function.name, k, kOutOfMemory, 0);
      const auto error = run();
      device.reset();  // which is part of the run
      const bool clean = fake.calls(function.name) < k;
      // What a failed call was to end, or to put back, stays as it is; nothing else does.
      const bool ends = function.fatal == Fatal::kNo || function.fatal == Fatal::kHalf;
      expect_clean(what, ends && !clean ? 1 : 0);
      fake.fail("", 0, 0, 0);
      if (clean) {
        EXPECT_EQ(error, std::nullopt) << what;
        break;
      }
      if (function.fatal == Fatal::kYes) {
        EXPECT_TRUE(error.has_value()) << what;
      }
      if (function.fatal == Fatal::kNo) {
        EXPECT_FALSE(error.has_value()) << what << ": " << error->message;
      }
      if (!error) continue;
      EXPECT_EQ(error->code, ErrorCode::kDevice) << what;
      EXPECT_NE(error->message.find(function.name), std::string::npos) << what << ": " << error->message;
      EXPECT_NE(error->message.find("out of memory"), std::string::npos) << what << ": " << error->message;
    }
    EXPECT_GT(k, 1U) << function.name << " is never called";
  }
}

TEST_P(DeviceFaultsTest, FunctionThatLosesTheDevice) {
  const auto of_the_context = [](const Function& function) {
    const std::string name = function.name;
    if (name.find("CaptureMode") != std::string::npos) return false;  // it is of the thread
    for (const char* part : {"Stream", "Event", "Host", "Memcpy"}) {
      if (name.find(part) != std::string::npos && name.find("Range") == std::string::npos) return true;
    }
    return false;
  };
  for (const Function& function : functions()) {
    if (!of_the_context(function)) continue;
    for (std::uint32_t k = 1;; ++k) {
      const std::string what = std::string(function.name) + " call " + std::to_string(k);
      fake.reset(k);
      fake.set_timing(20, 0, 20);
      fake.fail(function.name, k, kIllegalAddress, 1);
      const auto begin = steady_clock::now();
      const auto error = run();
      EXPECT_LT(steady_clock::now() - begin, kPatience / 2) << what << ": something waited for a lost device";
      if (fake.calls(function.name) < k) break;
      if (error) {
        EXPECT_EQ(error->code, ErrorCode::kDevice) << what;
        EXPECT_NE(error->message.find("cuda:1"), std::string::npos) << what << ": " << error->message;
        EXPECT_NE(error->message.find("illegal memory access"), std::string::npos) << what << ": " << error->message;
        ASSERT_TRUE(device->lost()) << what;
        // From now on nobody asks the driver.
        const auto calls = fake.calls(device->table().event_create.name);
        const auto next = DeviceEvent::create(device);
        ASSERT_FALSE(next.ok());
        EXPECT_NE(next.error().message.find("cannot be used any more"), std::string::npos) << next.error().message;
        EXPECT_NE(next.error().message.find(function.name), std::string::npos) << next.error().message;
        EXPECT_EQ(fake.calls(device->table().event_create.name), calls) << what;
      }
      device.reset();
      EXPECT_EQ(fake.counts().contexts, 0U) << what;
    }
  }
}

// A kernel of anybody in the process may lose the context while copies are queued.
TEST_P(DeviceFaultsTest, DeviceIsLostWhileCopiesRun) {
  fake.set_timing(100, 0, 100);
  fake.fail("copy", 1, kIllegalAddress, 1);
  const auto begin = steady_clock::now();
  const auto error = run();
  EXPECT_LT(steady_clock::now() - begin, kPatience / 2);
  ASSERT_TRUE(error.has_value());
  EXPECT_NE(error->message.find("illegal memory access"), std::string::npos) << error->message;
  EXPECT_NE(error->message.find("start a new one"), std::string::npos) << error->message;
  EXPECT_TRUE(device->lost());
  EXPECT_EQ(fake.violation(), std::string());
}

TEST_P(DeviceFaultsTest, AddressThatIsNoDeviceMemoryLosesTheDevice) {
  device = Accelerator::open(open_driver(), 0).value();
  ASSERT_TRUE(device->register_host(host.data(), host.size()).ok());
  auto stream = CopyStream::create(device).value();
  ASSERT_TRUE(stream->copy(0x1000, host.data(), 1).ok());
  EXPECT_FALSE(stream->wait_idle(kPatience).ok());
  EXPECT_TRUE(device->lost());
}

// The next device, and the next load on it, know nothing of it.
TEST_P(DeviceFaultsTest, AnotherDeviceStillWorks) {
  fake.fail("copy", 1, kIllegalAddress, 1);
  ASSERT_TRUE(run().has_value());
  device = Accelerator::open(open_driver(), 0).value();
  auto stream = CopyStream::create(device).value();
  const std::uint64_t target = fake.allocate(kBytes);
  std::vector<std::byte> pageable(kBytes, std::byte{3});
  ASSERT_TRUE(stream->copy(target, pageable.data(), kBytes).ok());
  const auto idle = stream->wait_idle(kPatience);
  ASSERT_TRUE(idle.ok() && *idle);
  EXPECT_EQ(fake.content(target, kBytes), pageable);
}

INSTANTIATE_TEST_SUITE_P(Vendors, DeviceFaultsTest, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

}  // namespace
}  // namespace weightstream
