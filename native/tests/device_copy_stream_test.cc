// Copies behind the caller's back: their order, what they wait for, and that waiting has a bound.
#include "device/copy_stream.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "fake_driver/loaded_fake.h"
#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using testing::FakeDeviceTest;
using testing::kPatience;

constexpr std::uint64_t kBytes = 64 * 1024;
constexpr std::uint32_t kLongKernel = 3'600'000'000;  // microseconds: an hour

class CopyStreamTest : public FakeDeviceTest {
 protected:
  void SetUp() override { start(1); }
  void start(std::uint64_t seed) {
    stop();
    fake.reset(seed);
    fake.set_timing(50, 0, 100);
    device = Accelerator::open(open_driver(), 0).value();
    ASSERT_TRUE(device->register_host(host.data(), host.size()).ok());
    stream = CopyStream::create(device).value();
    target = fake.allocate(kBytes);
  }
  void stop() {
    stream.reset();
    if (device) device->unregister_host(host.data());
    device.reset();
  }
  void TearDown() override {
    EXPECT_STREQ(fake.violation(), violation);
    stop();
    const FakeCounts left = fake.counts();
    EXPECT_EQ(left.registered_bytes + left.streams + left.events + left.contexts, 0U);
  }
  [[nodiscard]] DeviceEvent new_event() const { return DeviceEvent::create(device).value(); }
  void wait_idle() const {
    const auto idle = stream->wait_idle(kPatience);
    ASSERT_TRUE(idle.ok()) << idle.error().message;
    ASSERT_TRUE(*idle);
  }
  [[nodiscard]] ForeignStream foreign(bool blocking = true) const {
    return reinterpret_cast<ForeignStream>(fake.foreign_stream(0, blocking ? 1 : 0));
  }
  void launch(ForeignStream on, std::uint32_t microseconds, std::uint8_t value = 0xEE) const {
    fake.launch(0, reinterpret_cast<void*>(on), target, kBytes, microseconds, value);
  }
  void expect_pattern(std::uint64_t seed) const {
    EXPECT_EQ(testing::first_wrong(fake.content(target, kBytes), seed, 0), std::nullopt);
  }

  alignas(4096) std::array<std::byte, 4 * kBytes> host{};
  std::shared_ptr<Accelerator> device;
  std::unique_ptr<CopyStream> stream;
  std::uint64_t target = 0;
  const char* violation = "";
};

TEST_P(CopyStreamTest, LaterCopiesOverwriteEarlierOnes) {
  for (std::uint64_t part = 0; part < 4; ++part) {
    testing::fill_pattern(std::span(host).subspan(part * kBytes, kBytes), part, 0);
    ASSERT_TRUE(stream->copy(target, host.data() + part * kBytes, kBytes).ok());
  }
  wait_idle();
  expect_pattern(3);
  EXPECT_EQ(fake.counts().copies, 4U);
  EXPECT_EQ(fake.counts().pageable_copies, 0U);
}

TEST_P(CopyStreamTest, NothingToCopyIsNoCall) {
  EXPECT_TRUE(stream->copy(target, host.data(), 0).ok());
  EXPECT_EQ(fake.calls(device->table().copy_to_device.name), 0U);
}

// If the fake driver read the source at the call, no test with it could see a slot that is used again too early.
TEST_P(CopyStreamTest, SourceIsReadWhenTheCopyRuns) {
  fake.pause(1);
  testing::fill_pattern(std::span(host).first(kBytes), 1, 0);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  testing::fill_pattern(std::span(host).first(kBytes), 2, 0);
  fake.pause(0);
  wait_idle();
  expect_pattern(2);
}

TEST_P(CopyStreamTest, MemoryThatIsNotPinnedMayBeUsedAgainAtOnce) {
  std::vector<std::byte> pageable(kBytes);
  testing::fill_pattern(pageable, 1, 0);
  ASSERT_TRUE(stream->copy(target, pageable.data(), kBytes).ok());
  testing::fill_pattern(pageable, 2, 0);
  wait_idle();
  expect_pattern(1);
  EXPECT_EQ(fake.counts().pageable_copies, 1U);
}

TEST_P(CopyStreamTest, EventIsReachedBehindWhatWasQueuedBeforeIt) {
  auto event = new_event();
  const auto never_recorded = event.reached();
  ASSERT_TRUE(never_recorded.ok());
  EXPECT_TRUE(*never_recorded);

  fake.pause(1);
  testing::fill_pattern(std::span(host).first(kBytes), 7, 0);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  ASSERT_TRUE(stream->record(event).ok());
  const auto begin = steady_clock::now();
  const auto early = event.wait_for(milliseconds(30));
  ASSERT_TRUE(early.ok());
  EXPECT_FALSE(*early);
  EXPECT_GE(steady_clock::now() - begin, milliseconds(30));
  EXPECT_EQ(fake.last_error(), 0) << "not being ready is no failure that anybody should find";
  const auto busy = stream->idle();
  ASSERT_TRUE(busy.ok());
  EXPECT_FALSE(*busy);

  fake.pause(0);
  const auto late = event.wait_for(kPatience);
  ASSERT_TRUE(late.ok());
  EXPECT_TRUE(*late);
  expect_pattern(7);
}

TEST_P(CopyStreamTest, CopyWaitsForAnEventOfAnotherStream) {
  auto other = CopyStream::create(device).value();
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    testing::fill_pattern(std::span(host).first(kBytes), 100 + seed, 0);
    testing::fill_pattern(std::span(host).subspan(kBytes, kBytes), 200 + seed, 0);
    auto event = new_event();
    ASSERT_TRUE(other->copy(target, host.data(), kBytes).ok());
    ASSERT_TRUE(other->record(event).ok());
    ASSERT_TRUE(stream->wait_for(event).ok());
    ASSERT_TRUE(stream->copy(target, host.data() + kBytes, kBytes).ok());
    wait_idle();
    expect_pattern(200 + seed);
  }
}

// What a copy does that does not wait: the fake driver sees it, and the kernel's bytes end up on top.
TEST_P(CopyStreamTest, CopyIntoMemoryThatIsStillInUseIsSeen) {
  violation = "a copy went into memory that a kernel still used";
  launch(foreign(), 20'000);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  wait_idle();
  EXPECT_EQ(fake.counts().violations, 1U);
}

TEST_P(CopyStreamTest, CopyWaitsForKernelsOfAForeignStream) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    start(seed);
    // Streams of the framework, and its default stream, whose handle is 0.
    for (const ForeignStream theirs : {foreign(true), foreign(false), ForeignStream{0}}) {
      testing::fill_pattern(std::span(host).first(kBytes), seed, 0);
      launch(theirs, 3'000);
      ASSERT_TRUE(stream->wait_for(theirs).ok());
      ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
      wait_idle();
      expect_pattern(seed);
    }
    EXPECT_STREQ(fake.violation(), "");
  }
}

// Recorded where the memory was allocated, waited for where it is filled.
TEST_P(CopyStreamTest, EventOfAForeignStreamIsWaitedForLater) {
  const ForeignStream theirs = foreign();
  launch(theirs, 10'000);
  auto event = new_event();
  ASSERT_TRUE(event.record(theirs).ok());
  fake.launch(0, reinterpret_cast<void*>(theirs), fake.allocate(16), 16, kLongKernel, 1);  // later: not in the event
  ASSERT_TRUE(stream->wait_for(event).ok());
  testing::fill_pattern(std::span(host).first(kBytes), 5, 0);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  wait_idle();
  expect_pattern(5);
}

TEST_P(CopyStreamTest, CallerDoesNotWaitForTheForeignStream) {
  const ForeignStream theirs = foreign();
  launch(theirs, kLongKernel);
  ASSERT_TRUE(stream->wait_for(theirs).ok());
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  const auto idle = stream->wait_idle(milliseconds(20));
  ASSERT_TRUE(idle.ok());
  EXPECT_FALSE(*idle);
}

// Copies must not queue up behind the kernels of the default stream, nor hold them up.
TEST_P(CopyStreamTest, DefaultStreamIsNotWaitedFor) {
  fake.launch(0, nullptr, fake.allocate(16), 16, kLongKernel, 1);
  testing::fill_pattern(std::span(host).first(kBytes), 9, 0);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  wait_idle();
  expect_pattern(9);
}

TEST_P(CopyStreamTest, WorkGoesOnWhenItsStreamIsDestroyed) {
  fake.pause(1);
  testing::fill_pattern(std::span(host).first(kBytes), 4, 0);
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  auto event = new_event();
  ASSERT_TRUE(stream->record(event).ok());
  stream.reset();
  EXPECT_EQ(fake.counts().streams, 0U);
  fake.pause(0);
  const auto reached = event.wait_for(kPatience);
  ASSERT_TRUE(reached.ok() && *reached);
  expect_pattern(4);
}

TEST_P(CopyStreamTest, EventsMove) {
  auto first = new_event();
  auto second = new_event();
  EXPECT_EQ(fake.counts().events, 3U);  // with the stream's own
  first = std::move(second);
  EXPECT_EQ(fake.counts().events, 2U);
  fake.pause(1);
  ASSERT_TRUE(stream->record(first).ok());
  const auto reached = first.reached();
  ASSERT_TRUE(reached.ok());
  EXPECT_FALSE(*reached);
  fake.pause(0);
}

// As in a load: one thread allocates and says what to wait for, another copies and uses slots again behind events.
TEST_P(CopyStreamTest, SlotsAreUsedAgainBehindTheirEvents) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    start(seed);
    constexpr std::uint64_t kCopies = 60;
    std::vector<std::uint64_t> targets(kCopies);
    std::atomic<std::uint64_t> allocated = 0;
    std::atomic<bool> failed = false;
    const ForeignStream theirs = foreign();
    std::jthread framework([&] {
      for (std::uint64_t i = 0; i < kCopies; ++i) {
        targets[i] = fake.allocate(4096);
        fake.launch(0, reinterpret_cast<void*>(theirs), targets[i], 4096, 200, 0x11);
        if (!stream->wait_for(theirs).ok()) failed = true;
        allocated = i + 1;
      }
    });
    std::vector<DeviceEvent> behind;
    for (int slot = 0; slot < 4; ++slot) behind.push_back(new_event());
    for (std::uint64_t i = 0; i < kCopies; ++i) {
      while (allocated <= i) std::this_thread::yield();
      auto& event = behind[i % behind.size()];
      const auto slot = std::span(host).subspan(i % behind.size() * 4096, 4096);
      const auto free = event.wait_for(kPatience);
      ASSERT_TRUE(free.ok() && *free);
      testing::fill_pattern(slot, i, 0);
      ASSERT_TRUE(stream->copy(targets[i], slot.data(), slot.size()).ok());
      ASSERT_TRUE(stream->record(event).ok());
    }
    framework.join();
    wait_idle();
    EXPECT_FALSE(failed);
    for (std::uint64_t i = 0; i < kCopies; ++i) {
      EXPECT_EQ(testing::first_wrong(fake.content(targets[i], 4096), i, 0), std::nullopt) << "copy " << i;
    }
    EXPECT_STREQ(fake.violation(), "");
  }
}

TEST_P(CopyStreamTest, BytesTakeTheTimeOfTheLink) {
  fake.set_timing(0, 10 * kBytes, 0);
  const auto begin = steady_clock::now();
  ASSERT_TRUE(stream->copy(target, host.data(), kBytes).ok());
  wait_idle();
  EXPECT_GE(steady_clock::now() - begin, milliseconds(100));
}

INSTANTIATE_TEST_SUITE_P(Vendors, CopyStreamTest, ::testing::Values(Vendor::kCuda, Vendor::kHip), testing::vendor_text);

}  // namespace
}  // namespace weightstream
