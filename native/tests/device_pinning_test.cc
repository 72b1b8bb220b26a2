// Which memory is near a device, and pinning as the slot pool asks for it.
#include "device/pinning.h"

#include <gtest/gtest.h>

#include <array>
#include <filesystem>
#include <fstream>

#include "fake_driver/loaded_fake.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::FakeDeviceTest;

void attach(const testing::TempDir& folder, const std::string& device, const std::string& node) {
  std::filesystem::create_directory(folder / device);
  std::ofstream(folder / (device + "/numa_node")) << node;
}

TEST(NumaNodeTest, IsWhatTheKernelSaysOfTheBusId) {
  const testing::TempDir folder;
  attach(folder, "0000:3b:00.0", "1\n");
  attach(folder, "0009:01:00.0", "-1\n");
  attach(folder, "10000:e1:1f.7", "3\n");
  attach(folder, "0000:aa:00.0", "nonsense");
  const std::string devices = folder / "";
  EXPECT_EQ(numa_node_of("0000:3b:00.0", devices), 1);
  EXPECT_EQ(numa_node_of("0000:3B:00.0", devices), 1);
  EXPECT_EQ(numa_node_of("00000000:3B:00.0", devices), 1);
  EXPECT_EQ(numa_node_of("00010000:E1:1F.7", devices), 3);
  EXPECT_EQ(numa_node_of("0009:01:00.0", devices), -1);
  EXPECT_EQ(numa_node_of("0000:aa:00.0", devices), -1);
  EXPECT_EQ(numa_node_of("0000:77:00.0", devices), -1) << "no such device";
}

TEST(NumaNodeTest, TextThatIsNoBusIdHasNone) {
  for (const char* id : {"", "0000", "0000:3b", "../../../etc", "0000:3b:00", "zz:3b:00.0"}) {
    EXPECT_EQ(numa_node_of(id), -1) << id;
  }
}

class DevicePinnerTest : public FakeDeviceTest {};

TEST_P(DevicePinnerTest, PinsForCopiesAndLetsGo) {
  alignas(4096) std::array<std::byte, 8192> host{};
  const auto device = Accelerator::open(open_driver(), 0).value();
  DevicePinner pinner(device);
  Pinner& asked = pinner;
  ASSERT_TRUE(asked.pin(host.data(), host.size()).ok());
  EXPECT_EQ(fake.counts().registered_bytes, host.size());
  asked.unpin(host.data(), host.size());
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
  EXPECT_EQ(asked.numa_node(), numa_node_of(device->pci_bus_id()));
}

TEST_P(DevicePinnerTest, SaysWhyItCannot) {
  alignas(4096) std::array<std::byte, 8192> host{};
  fake.set_register_limit(4096);
  DevicePinner pinner(Accelerator::open(open_driver(), 0).value());
  const auto pinned = pinner.pin(host.data(), host.size());
  ASSERT_FALSE(pinned.ok());
  EXPECT_EQ(pinned.error().code, ErrorCode::kDevice);
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
}

INSTANTIATE_TEST_SUITE_P(Vendors, DevicePinnerTest, ::testing::Values(Vendor::kCuda, Vendor::kHip),
                         testing::vendor_text);

}  // namespace
}  // namespace weightstream
