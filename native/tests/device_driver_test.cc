// Finding, opening and refusing driver libraries. What is remembered for the life of a process is tested in children.
#include "device/driver.h"

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>
#include <vector>

#include "fake_driver/loaded_fake.h"
#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::FakeDeviceTest;
using testing::in_child;

const char* variable(Vendor vendor) {
  return vendor == Vendor::kCuda ? "WEIGHTSTREAM_CUDA_DRIVER" : "WEIGHTSTREAM_HIP_DRIVER";
}
const char* init_name(Vendor vendor) { return vendor == Vendor::kCuda ? "cuInit" : "hipInit"; }

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class DriverTest : public FakeDeviceTest {
 protected:
  [[nodiscard]] Error refusal(const std::string& library) const {
    auto driver = Driver::open(GetParam(), library);
    EXPECT_FALSE(driver.ok());
    return driver.ok() ? Error{} : driver.error();
  }
};

TEST_P(DriverTest, OpensWithAllItsFunctions) {
  const auto driver = open_driver();
  int count = 0;
  EXPECT_TRUE(driver->table.device_count(&count).ok());
  EXPECT_EQ(count, 2);
  EXPECT_TRUE(driver->usable_here());
}

TEST_P(DriverTest, MissingLibraryIsNamedWithTheVariableThatNamesIt) {
  const Error error = refusal("/nowhere/libdriver.so");
  EXPECT_EQ(error.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(error.message, "/nowhere/libdriver.so")) << error.message;
  EXPECT_TRUE(has(error.message, variable(GetParam()))) << error.message;
}

TEST_P(DriverTest, MachineWithoutDriverIsToldWhatToInstall) {
  auto driver = Driver::open(GetParam(), "");
  if (driver.ok()) GTEST_SKIP() << "this machine has such a driver";
  const std::string& message = driver.error().message;
  EXPECT_EQ(driver.error().code, ErrorCode::kDevice);
  EXPECT_TRUE(has(message, cuda() ? "libcuda.so.1" : "libamdhip64.so")) << message;
  EXPECT_TRUE(has(message, "install")) << message;
}

TEST_P(DriverTest, RelativePathIsRefused) {
  for (const char* path : {"libcuda.so.1", "./libdriver.so", "../driver.so", " /opt/driver.so"}) {
    const Error error = refusal(path);
    EXPECT_EQ(error.code, ErrorCode::kConfig) << path;
    EXPECT_TRUE(has(error.message, "absolute")) << error.message;
    EXPECT_TRUE(has(error.message, variable(GetParam()))) << error.message;
  }
}

TEST_P(DriverTest, LibraryThatIsNoDriverIsSaidToBeNone) {
  const char* some_library = cuda() ? FAKE_HIP_DRIVER : FAKE_CUDA_DRIVER;
  const Error error = refusal(some_library);
  EXPECT_EQ(error.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(error.message, some_library)) << error.message;
  EXPECT_TRUE(has(error.message, cuda() ? "is no CUDA driver" : "is no HIP driver")) << error.message;
}

TEST(OldDriverTest, MissingFunctionMeansTooOld) {
  auto driver = Driver::open(Vendor::kCuda, testing::kOldCudaDriver);
  ASSERT_FALSE(driver.ok());
  EXPECT_EQ(driver.error().code, ErrorCode::kDevice);
  const std::string& message = driver.error().message;
  EXPECT_TRUE(has(message, "too old")) << message;
  EXPECT_TRUE(has(message, "cuDevicePrimaryCtxRelease_v2")) << message;
  EXPECT_TRUE(has(message, "CUDA 10.2")) << message;
  EXPECT_TRUE(has(message, "CUDA 11.0 or newer")) << message;
}

TEST_P(DriverTest, RefusalToStartHasTheDriversWordsAndAdvice) {
  fake.fail(init_name(GetParam()), 1, 100, 0);
  const Error error = refusal(fake.path);
  EXPECT_EQ(error.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(error.message, init_name(GetParam()))) << error.message;
  EXPECT_TRUE(has(error.message, cuda() ? "CUDA_ERROR_NO_DEVICE" : "hipErrorNoDevice")) << error.message;
  EXPECT_TRUE(has(error.message, "no device is detected")) << error.message;
  EXPECT_TRUE(has(error.message, "nvidia-smi")) << error.message;
}

TEST_P(DriverTest, UnknownStatusHasItsNumber) {
  fake.fail(init_name(GetParam()), 1, 12345, 0);
  const Error error = refusal(fake.path);
  EXPECT_TRUE(has(error.message, "12345")) << error.message;
}

// A framework may bring a driver library of its own; another one beside it would not know its streams.
TEST_P(DriverTest, LibraryThatIsMappedAlreadyIsTheOne) {
  const testing::TempDir folder;
  const std::string copy = folder / (cuda() ? "libcuda.so.1" : "libamdhip64.so.99");
  std::filesystem::copy_file(fake.path, copy);
  const int result = in_child([&] {
    void* mapped = ::dlopen(copy.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (mapped == nullptr) return 1;
    const auto calls = reinterpret_cast<decltype(&fake_calls)>(::dlsym(mapped, "fake_calls"));
    if (!Driver::open(GetParam(), "").ok()) return 2;
    return calls(init_name(GetParam())) == 1 ? 0 : 3;
  });
  EXPECT_EQ(result, 0);
}

TEST_P(DriverTest, ProcessLoadsOnceWhicheverThreadAsksFirst) {
  const int result = in_child([&] {
    ::setenv(variable(GetParam()), fake.path.c_str(), 1);
    std::vector<const Driver*> found(8);
    std::vector<std::thread> threads;
    for (auto& place : found) {
      threads.emplace_back([&] {
        auto driver = Driver::of_process(GetParam());
        place = driver.ok() ? driver->get() : nullptr;
      });
    }
    for (auto& thread : threads) thread.join();
    for (const Driver* driver : found) {
      if (driver == nullptr || driver != found.front()) return 1;
    }
    return fake.calls(init_name(GetParam())) == 1 ? 0 : 2;
  });
  EXPECT_EQ(result, 0);
}

TEST_P(DriverTest, ProcessRemembersWhyItFailed) {
  const int result = in_child([&] {
    ::setenv(variable(GetParam()), fake.path.c_str(), 1);
    fake.fail(init_name(GetParam()), 1, 100, 0);
    const auto first = Driver::of_process(GetParam());
    const auto second = Driver::of_process(GetParam());  // would succeed if it tried
    if (first.ok() || second.ok() || first.error().message != second.error().message) return 1;
    return fake.calls(init_name(GetParam())) == 1 ? 0 : 2;
  });
  EXPECT_EQ(result, 0);
}

TEST_P(DriverTest, RelativePathInTheEnvironmentIsRefused) {
  const int result = in_child([&] {
    ::setenv(variable(GetParam()), "libevil.so", 1);
    const auto driver = Driver::of_process(GetParam());
    return !driver.ok() && driver.error().code == ErrorCode::kConfig ? 0 : 1;
  });
  EXPECT_EQ(result, 0);
}

TEST_P(DriverTest, ForkedChildOfAProcessThatUsedItIsToldToSpawn) {
  const int result = in_child([&] {
    ::setenv(variable(GetParam()), fake.path.c_str(), 1);
    if (!Driver::of_process(GetParam()).ok()) return 1;
    return in_child([&] {
      const auto driver = Driver::of_process(GetParam());
      if (driver.ok() || driver.error().code != ErrorCode::kDevice) return 11;
      if (!has(driver.error().message, "spawn")) return 12;
      return fake.counts().calls_after_fork == 0 ? 0 : 13;
    });
  });
  EXPECT_EQ(result, 0);
}

// What failed in the parent has the same reason in the child, and is not blamed on the fork.
TEST_P(DriverTest, ForkedChildOfAProcessWithoutDriverIsToldSo) {
  const int result = in_child([&] {
    ::setenv(variable(GetParam()), "/nowhere/libdriver.so", 1);
    const auto before = Driver::of_process(GetParam());
    if (before.ok()) return 1;
    return in_child([&] {
      const auto after = Driver::of_process(GetParam());
      return !after.ok() && after.error().message == before.error().message ? 0 : 11;
    });
  });
  EXPECT_EQ(result, 0);
}

INSTANTIATE_TEST_SUITE_P(Vendors, DriverTest, ::testing::Values(Vendor::kCuda, Vendor::kHip), testing::vendor_text);

}  // namespace
}  // namespace weightstream
