// Streams to the fake device by its cuFile. Afterwards no file is registered.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "device_stream_harness.h"

namespace weightstream::testing {

class GdsStreamTest : public DeviceStreamTest {
 protected:
  void SetUp() override {
    DeviceStreamTest::SetUp();
    const int direct = ::open(checkpoint_.files[0].path.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (direct < 0) GTEST_SKIP() << "the filesystem refuses O_DIRECT";
    ::close(direct);
    if (cuda()) open_cufile();
  }
  void TearDown() override {
    EXPECT_EQ(fake.counts().cufile_files, 0U);
    DeviceStreamTest::TearDown();
  }
  void open_cufile() {
    auto opened = CuFile::open(fake.path);
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    cufile_ = std::move(*opened);
  }

  [[nodiscard]] StreamOptions options_for_gds(std::uint64_t device_limit = 0) const {
    StreamOptions options = options_for_device(4, device_limit);
    options.backend = Backend::kGds;
    options.device->cufile = [cufile = cufile_]() -> Result<std::shared_ptr<const CuFile>> { return cufile; };
    return options;
  }

  std::shared_ptr<const CuFile> cufile_;
};

}  // namespace weightstream::testing
