// Streams to a device: right bytes in every order and under every limit, no slot used before its copy ended, no memory
// written before its event, and streams that share slots without stopping each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>

#include "device_stream_harness.h"
#include "fault_injecting_reader.h"

namespace weightstream {
namespace {

using testing::Consumed;
using testing::DeviceStreamTest;
using testing::Fault;
using testing::FaultPlan;
using testing::kKiB;
using testing::kMiB;

constexpr int kStreamCaptureUnsupported = 900;

class EngineDevice : public DeviceStreamTest {
 protected:
  [[nodiscard]] const char* copy_call() const { return cuda() ? "cuMemcpyHtoDAsync_v2" : "hipMemcpyHtoDAsync"; }
  void expect_all(const Consumed& consumed) {
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "not ended");
    std::set<std::uint32_t> seen(consumed.order.begin(), consumed.order.end());
    EXPECT_EQ(seen.size(), checkpoint_.items.size());
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
  }
};

INSTANTIATE_TEST_SUITE_P(Vendors, EngineDevice, ::testing::Values(Vendor::kCuda, Vendor::kHip), testing::vendor_text);

TEST_P(EngineDevice, HandsOutEveryByteUnderEveryLimitInEveryOrder) {
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t slots : {1, 3}) {
      for (const std::uint64_t limit : {std::uint64_t{1}, kMiB, 6 * kMiB, std::uint64_t{0}}) {
        SCOPED_TRACE(testing::name(Backend::kAuto) + " slots " + std::to_string(slots) + " limit " +
                     std::to_string(limit));
        watchdog_.begin("slots " + std::to_string(slots) + " limit " + std::to_string(limit));
        auto options = options_for_device(slots, limit);
        options.file_order = file_order;
        auto stream = start_stream(options);
        ASSERT_TRUE(stream.ok()) << stream.error().message;
        const auto consumed = consume_on_device(**stream);
        expect_all(consumed);
        EXPECT_TRUE(!file_order || std::is_sorted(consumed.order.begin(), consumed.order.end()));
        const auto stats = (*stream)->stats();
        EXPECT_EQ(stats.items, checkpoint_.items.size());
        EXPECT_EQ(stats.bytes, stats.bytes_total);
        EXPECT_LE(stats.peak_host_bytes, slots * Slot::kBytes);
        EXPECT_GT(stats.peak_host_bytes, 0U);
        // The largest item, and what shares reads with it.
        const std::uint64_t floor = 5 * kMiB + 1 + 700 * kKiB + 2 * kMiB + kMiB;
        std::uint64_t all = 0;
        for (const auto& group : (*stream)->device_groups()->groups) all += group.bytes;
        EXPECT_LE(stats.peak_device_bytes, limit == 0 ? all : std::max(limit, floor));
      }
    }
  }
}

TEST_P(EngineDevice, WritesNoMemoryThatQueuedKernelsUse) {
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    auto stream = start_stream(options_for_device(3, 2 * kMiB));
    ASSERT_TRUE(stream.ok());
    expect_all(consume_on_device(**stream, {.at_a_time = kMiB, .kernel_us = 20'000}));
    EXPECT_STREQ(fake.violation(), "");
  }
}

TEST_P(EngineDevice, UsesNoSlotAgainBeforeItsCopiesEnded) {
  fake.set_timing(5000, 0, 3000);
  auto stream = start_stream(options_for_device(2));
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream, {.kernel_us = 0}));
  const auto stats = (*stream)->stats();
  EXPECT_GT(stats.wait_device_seconds, stats.wait_storage_seconds) << "the copies were what took time";
}

TEST_P(EngineDevice, CopiesSmallItemsTogether) {
  auto stream = start_stream(options_for_device());
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  const auto counts = fake.counts();
  EXPECT_EQ(counts.pageable_copies, 0U);
  EXPECT_EQ(counts.copied_bytes, (*stream)->stats().bytes_total);
  // One for each large item, read and run of small ones, and not one for each of 200.
  EXPECT_LT(counts.copies, 40U);
}

// Of odd sizes: none lies where the one before it ends, and all the same they share allocations.
TEST_P(EngineDevice, ItemsOfOddSizesShareMemory) {
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t i = 0; i < 300; ++i) sizes.push_back(i % 5 == 0 ? 1 + i % 7 : 513 + i * 37 % 9000);
  checkpoint_ = testing::make_checkpoint(folder_, {sizes, {9 * kMiB + 1, 777, 30'001}});
  auto stream = start_stream(options_for_device());
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  EXPECT_LT((*stream)->device_groups()->groups.size(), 10U);
  const auto counts = fake.counts();
  EXPECT_EQ(counts.copied_bytes, (*stream)->stats().bytes_total) << "nothing is copied twice, and no padding";
  EXPECT_LT(counts.copies, 260U) << "tiny ones go with those before them";
}

TEST_P(EngineDevice, ItemsWithMemoryOfTheirOwnAreNotPacked) {
  auto options = options_for_device();
  options.device->packed = false;
  options.device->device_limit = UINT64_MAX;
  auto stream = start_stream(options);
  ASSERT_TRUE(stream.ok());
  for (const auto& group : (*stream)->device_groups()->groups) EXPECT_EQ(group.items, 1U);
  expect_all(consume_on_device(**stream, {.at_a_time = UINT64_MAX}));
}

// A stream that nobody takes anything from must not keep the slots from others.
TEST_P(EngineDevice, StreamsThatWaitForTheirConsumerHoldNoSlot) {
  const auto options = options_for_device(1, kMiB);
  auto paused = start(checkpoint_, options);
  ASSERT_TRUE(paused.ok());
  ASSERT_TRUE(top_up(**paused, {}));
  std::vector<std::uint64_t> memory;
  memory.swap(memory_);
  auto other = start_stream(options);
  ASSERT_TRUE(other.ok());
  expect_all(consume_on_device(**other));
  EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
  (*paused)->close();
  for (const auto address : memory) fake.free(address);
}

TEST_P(EngineDevice, ManyStreamsShareASlot) {
  const auto options = options_for_device(1, kMiB);
  std::vector<std::unique_ptr<Stream>> streams;
  std::vector<std::thread> consumers;
  for (int i = 0; i < 4; ++i) {
    auto stream = start(checkpoint_, options);
    ASSERT_TRUE(stream.ok());
    streams.push_back(std::move(*stream));
  }
  std::mutex mutex;
  std::vector<std::uint64_t> memory;
  for (auto& stream : streams) {
    consumers.emplace_back([&, own = stream.get()] {
      std::size_t items = 0;
      while (items < checkpoint_.items.size()) {
        const auto due = own->due(4 * kMiB);
        std::vector<std::uint64_t> addresses;
        for (auto group = due.begin; group < due.end; ++group) {
          addresses.push_back(fake.allocate(own->device_groups()->groups[group].bytes));
        }
        {
          const std::lock_guard lock(mutex);
          memory.insert(memory.end(), addresses.begin(), addresses.end());
        }
        ASSERT_TRUE(own->provide(addresses, current_).ok());
        std::vector<ReadyItem> batch;
        ASSERT_TRUE(own->next(batch, std::chrono::milliseconds(20)).ok());
        items += batch.size();
      }
    });
  }
  for (auto& consumer : consumers) consumer.join();
  streams.clear();
  for (const auto address : memory) fake.free(address);
}

TEST_P(EngineDevice, CanBeClosedAtAnyItem) {
  for (std::size_t stop_at : {0, 1, 2, 5, 8, 150}) {
    auto stream = start_stream(options_for_device(2, 4 * kMiB));
    ASSERT_TRUE(stream.ok());
    std::size_t taken = 0;
    if (stop_at > 0) {
      consume_on_device(**stream, {.with = [&](std::uint32_t) { return ++taken < stop_at; }});
    } else {
      top_up(**stream, {});
    }
    (*stream)->close();
    EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
    free_memory();
    EXPECT_STREQ(fake.violation(), "");
  }
}

// A kernel of somebody runs before the copies, for long.
TEST_P(EngineDevice, ClosingDoesNotWaitForKernelsOfOthers) {
  auto stream = start_stream(options_for_device(1, 2 * kMiB));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(top_up(**stream, {.kernel_us = 1'500'000}));
  ASSERT_TRUE(testing::eventually([&] { return fake.calls(copy_call()) > 0; }));
  std::atomic<bool> freed = false;
  std::vector<std::uint64_t> memory;
  memory.swap(memory_);
  std::shared_ptr<void> destinations(nullptr, [&](void*) {
    for (const auto address : memory) fake.free(address);
    freed = true;
  });
  const auto begin = Stream::Clock::now();
  (*stream)->close(std::move(destinations));
  EXPECT_LT(Stream::Clock::now() - begin, std::chrono::milliseconds(1400));
  EXPECT_FALSE(freed) << "copies go there yet";
  // The next one gets the slot when the device has let go of it.
  stream = start_stream(options_for_device(1));
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  EXPECT_TRUE(testing::eventually([&] { return freed.load(); }));
}

// More copies than a stream of the device holds: the driver waits inside the call that queues one too many.
TEST_P(EngineDevice, ClosingDoesNotWaitForKernelsOfOthersBeforeManyCopies) {
  checkpoint_ = testing::make_checkpoint(folder_, {std::vector<std::uint64_t>(3000, 521), {9 * kMiB}});
  for (const bool pinned : {true, false}) {
    fake.set_register_limit(pinned ? UINT64_MAX : 0);
    auto stream = start_stream(options_for_device(2));
    ASSERT_TRUE(stream.ok());
    const auto before = fake.calls(copy_call());
    ASSERT_TRUE(top_up(**stream, {.kernel_us = 1'500'000}));
    ASSERT_TRUE(
        testing::eventually([&] { return pinned ? fake.calls(copy_call()) > before : (*stream)->stats().reads > 0; }));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));  // until as many are queued as will be
    const auto begin = Stream::Clock::now();
    (*stream)->close();
    EXPECT_LT(Stream::Clock::now() - begin, std::chrono::milliseconds(1200));
    EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
    free_memory();
    slots_->release_idle();
  }
}

TEST_P(EngineDevice, ManySmallCopiesArriveBehindKernelsOfOthers) {
  checkpoint_ = testing::make_checkpoint(folder_, {std::vector<std::uint64_t>(3000, 521), {9 * kMiB}});
  for (const bool pinned : {true, false}) {
    fake.set_register_limit(pinned ? UINT64_MAX : 0);
    fake.set_timing(10, 0, 10);
    auto stream = start_stream(options_for_device(2));
    ASSERT_TRUE(stream.ok());
    expect_all(consume_on_device(**stream, {.kernel_us = 20'000}));
    (*stream)->close();
    slots_->release_idle();
  }
}

TEST_P(EngineDevice, ClosingOutlivesAQueryThatFails) {
  for (int failures = 1; failures <= 3; ++failures) {
    auto stream = start_stream(options_for_device(2, 2 * kMiB));
    ASSERT_TRUE(stream.ok());
    const auto before = fake.calls(copy_call());
    ASSERT_TRUE(top_up(**stream, {.kernel_us = 30'000}));
    ASSERT_TRUE(testing::eventually([&] { return fake.calls(copy_call()) > before; }));
    fake.fail(cuda() ? "cuStreamQuery" : "hipStreamQuery", 1, kStreamCaptureUnsupported, 0);
    (*stream)->close();
    fake.fail("", 0, 0, 0);
    EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
    free_memory();
    EXPECT_STREQ(fake.violation(), "");
  }
}

TEST_P(EngineDevice, WhoClosesSecondWaitsForTheFirst) {
  auto stream = start_stream(options_for_device(1, 2 * kMiB));
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(top_up(**stream, {.kernel_us = 5'000}));
  ASSERT_TRUE(testing::eventually([&] { return fake.calls(copy_call()) > 0; }));
  std::thread first([&] { (*stream)->close(); });
  (*stream)->close();
  EXPECT_EQ(slots_->stats().slots_in_use, 0U);
  first.join();
}

TEST_P(EngineDevice, FailedStreamsThatNobodyLooksAtHoldNoSlot) {
  for (std::uint64_t at = 1; at <= 3; ++at) {
    const auto plan = std::make_shared<FaultPlan>();
    plan->fault = Fault::kIoError;
    plan->at = at;
    auto options = options_for_device(1, 8 * kMiB);
    options.make_reader = testing::with_faults(plan);
    auto failed = start(checkpoint_, options);
    ASSERT_TRUE(failed.ok());
    ASSERT_TRUE(top_up(**failed, {.at_a_time = 8 * kMiB}));
    std::vector<std::uint64_t> memory;
    memory.swap(memory_);
    ASSERT_TRUE(testing::eventually([&] { return plan->happened.load(); }));
    auto other = start_stream(options_for_device(1));
    ASSERT_TRUE(other.ok());
    expect_all(consume_on_device(**other));
    (*failed)->close();
    for (const auto address : memory) fake.free(address);
    other->reset();
    free_memory();
  }
}

TEST_P(EngineDevice, FailedReadsEndItAndFreeTheirSlots) {
  for (const auto fault : {Fault::kIoError, Fault::kReversed}) {
    for (std::uint64_t at = 1;; at = at < 4 ? at + 1 : 2 * at) {
      SCOPED_TRACE(std::string(testing::name(fault)) + " at " + std::to_string(at));
      const auto plan = std::make_shared<FaultPlan>();
      plan->fault = fault;
      plan->at = at;
      auto options = options_for_device(8);
      options.make_reader = testing::with_faults(plan);
      auto stream = start_stream(options);
      ASSERT_TRUE(stream.ok());
      const auto consumed = consume_on_device(**stream);
      if (plan->happened && testing::fails(fault)) {
        EXPECT_TRUE(consumed.error.has_value());
      } else {
        expect_all(consumed);
      }
      (*stream)->close();
      EXPECT_TRUE(testing::eventually([&] { return slots_->stats().slots_in_use == 0; }));
      if (!plan->happened) break;
    }
  }
}

TEST_P(EngineDevice, DevicesThatShareTheHostsMemoryGetFewSlotsUnlessToldOtherwise) {
  StreamOptions options = options_for_device();
  const auto usual = default_memory_limit(options);
  fake.set_integrated(1);
  options.device->accelerator = Accelerator::open(open_driver(), 1).value();
  EXPECT_EQ(default_memory_limit(options), std::min(usual, 256 * kMiB));
}

TEST_P(EngineDevice, SinglesAndMappingsGoThroughHostMemory) {
  auto options = options_for_device();
  auto one = start(checkpoint_, options, std::vector{checkpoint_.items[2]});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ((*one)->device_groups(), nullptr);
  options.backend = Backend::kMmap;
  auto mapped = start(checkpoint_, options);
  ASSERT_TRUE(mapped.ok());
  EXPECT_EQ((*mapped)->device_groups(), nullptr);
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
}

TEST_P(EngineDevice, AnswersAForkedChildWithoutTouchingTheDevice) {
  auto stream = start_stream(options_for_device(2, kMiB));
  ASSERT_TRUE(stream.ok());
  top_up(**stream, {});
  const int result = testing::in_child([&] {
    std::vector<ReadyItem> batch;
    const auto due = (*stream)->due(kMiB);
    const auto next = (*stream)->next(batch, {});
    const bool right = due.begin == due.end && !next.ok() && next.error().code == ErrorCode::kClosed;
    stream->reset();
    return right ? 0 : 1;
  });
  EXPECT_EQ(result, 0);
  expect_all(consume_on_device(**stream));
}

}  // namespace
}  // namespace weightstream
