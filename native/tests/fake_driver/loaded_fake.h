// The fake driver of one vendor, opened as the core opens it, with its controls. Reset when it goes.
#pragma once

#include <dlfcn.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/driver.h"
#include "fake_driver.h"

namespace weightstream::testing {

inline constexpr const char* kOldCudaDriver = FAKE_OLD_CUDA_DRIVER;

class LoadedFake {
 public:
  explicit LoadedFake(Vendor vendor)
      : path(vendor == Vendor::kCuda ? FAKE_CUDA_DRIVER : FAKE_HIP_DRIVER),
        library_(::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (library_ == nullptr) ADD_FAILURE() << ::dlerror();
    reset(0);
  }
  ~LoadedFake() { reset(0); }
  LoadedFake(const LoadedFake&) = delete;
  LoadedFake& operator=(const LoadedFake&) = delete;

  [[nodiscard]] FakeCounts counts() const {
    FakeCounts counts{};
    get_counts(&counts);
    return counts;
  }
  [[nodiscard]] std::vector<std::byte> content(std::uint64_t at, std::uint64_t bytes) const {
    std::vector<std::byte> content(bytes);
    read(at, content.data(), bytes);
    return content;
  }

  const std::string path;

 private:
  template <typename Function>
  Function* control(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(library_, name));
  }
  void* const library_;  // stays open: a driver that was initialised is never closed

 public:
#define WEIGHTSTREAM_FAKE_CONTROL(name) \
  decltype(::fake_##name)* const name = control<decltype(::fake_##name)>("fake_" #name)
  WEIGHTSTREAM_FAKE_CONTROL(reset);
  WEIGHTSTREAM_FAKE_CONTROL(set_devices);
  WEIGHTSTREAM_FAKE_CONTROL(set_timing);
  WEIGHTSTREAM_FAKE_CONTROL(set_register_limit);
  WEIGHTSTREAM_FAKE_CONTROL(set_cufile);
  WEIGHTSTREAM_FAKE_CONTROL(set_integrated);
  WEIGHTSTREAM_FAKE_CONTROL(pause);
  WEIGHTSTREAM_FAKE_CONTROL(fail);
  WEIGHTSTREAM_FAKE_CONTROL(calls);
  WEIGHTSTREAM_FAKE_CONTROL(get_counts);
  WEIGHTSTREAM_FAKE_CONTROL(violation);
  WEIGHTSTREAM_FAKE_CONTROL(allocate);
  WEIGHTSTREAM_FAKE_CONTROL(free);
  WEIGHTSTREAM_FAKE_CONTROL(read);
  WEIGHTSTREAM_FAKE_CONTROL(foreign_stream);
  WEIGHTSTREAM_FAKE_CONTROL(launch);
  WEIGHTSTREAM_FAKE_CONTROL(begin_capture);
  WEIGHTSTREAM_FAKE_CONTROL(end_capture);
  WEIGHTSTREAM_FAKE_CONTROL(capture_mode);
  WEIGHTSTREAM_FAKE_CONTROL(current_context);
  WEIGHTSTREAM_FAKE_CONTROL(make_current);
  WEIGHTSTREAM_FAKE_CONTROL(context_depth);
  WEIGHTSTREAM_FAKE_CONTROL(last_error);
#undef WEIGHTSTREAM_FAKE_CONTROL
};

inline std::string vendor_text(const ::testing::TestParamInfo<Vendor>& info) {
  return info.param == Vendor::kCuda ? "Cuda" : "Hip";
}

// A test for both vendors, against a driver with two devices.
class FakeDeviceTest : public ::testing::TestWithParam<Vendor> {
 protected:
  [[nodiscard]] std::shared_ptr<const Driver> open_driver() const {
    auto driver = Driver::open(GetParam(), fake.path);
    EXPECT_TRUE(driver.ok()) << driver.error().message;
    return std::move(driver).value();
  }
  [[nodiscard]] bool cuda() const { return GetParam() == Vendor::kCuda; }

  LoadedFake fake{GetParam()};
};

}  // namespace weightstream::testing
