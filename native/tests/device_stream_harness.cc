#include "device_stream_harness.h"

#include <gtest/gtest.h>

#include <utility>

namespace weightstream::testing {

void DeviceStreamTest::SetUp() {
  fake.reset(7);
  fake.set_timing(50, 0, 100);
  auto opened = Accelerator::open(open_driver(), 1);
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  device_ = std::move(*opened);
  slots_ = SlotPool::create({.idle_time = std::chrono::hours(1)});
  current_ = reinterpret_cast<ForeignStream>(fake.foreign_stream(1, 1));
  // 13 MiB in two files: empty, tiny, packed, and larger than a read.
  std::vector<std::uint64_t> small;
  for (std::uint64_t i = 0; i < 200; ++i) small.push_back(608 + i % 7 * 4096);
  std::vector<std::uint64_t> mixed{0, 5 * kMiB + 1, 3, 0, 700 * kKiB, 16, 2 * kMiB, 1, 64 * kKiB, 64 * kKiB + 1};
  mixed.insert(mixed.end(), small.begin(), small.end());
  mixed.push_back(0);
  checkpoint_ = make_checkpoint(folder_, {mixed, {3 * kMiB + 5, 12, 20, 400 * kKiB}});
}

void DeviceStreamTest::TearDown() {
  expect_nothing_left();
  EXPECT_STREQ(fake.violation(), "");
}

void DeviceStreamTest::expect_nothing_left() {
  free_memory();
  device_.reset();
  EXPECT_TRUE(eventually([&] {
    if (slots_) slots_->release_idle();  // again and again: copies in limbo may hold some
    const FakeCounts left = fake.counts();
    return left.registered_bytes + left.streams + left.events + left.contexts == 0;
  })) << fake.counts().registered_bytes
      << " bytes pinned, " << fake.counts().streams << " streams, " << fake.counts().events << " events";
}

StreamOptions DeviceStreamTest::options_for_device(std::uint64_t slots, std::uint64_t device_limit) const {
  StreamOptions options;
  options.memory_limit = slots * Slot::kBytes;
  options.device = DeviceTarget{.accelerator = device_, .slots = slots_, .device_limit = device_limit};
  return options;
}

Result<std::unique_ptr<Stream>> DeviceStreamTest::start_stream(const StreamOptions& options) {
  free_memory();
  auto stream = start(checkpoint_, options);
  if (stream) {
    EXPECT_NE((*stream)->device_groups(), nullptr);
    for (const auto& group : (*stream)->device_groups()->groups) left_.push_back(group.items);
  }
  return stream;
}

void DeviceStreamTest::free_memory() {
  for (const auto address : memory_) {
    if (address != 0) fake.free(address);
  }
  memory_.clear();
  left_.clear();
}

bool DeviceStreamTest::top_up(Stream& stream, const Consumer& consumer) {
  const auto due = stream.due(consumer.at_a_time);
  if (due.begin == due.end) return false;
  EXPECT_EQ(due.begin, memory_.size());
  std::vector<std::uint64_t> addresses;
  for (auto group = due.begin; group < due.end; ++group) {
    const std::uint64_t bytes = stream.device_groups()->groups[group].bytes;
    addresses.push_back(fake.allocate(bytes));
    if (consumer.kernel_us > 0) {
      fake.launch(1, reinterpret_cast<void*>(current_), addresses.back(), bytes, consumer.kernel_us, 0xEE);
    }
  }
  memory_.insert(memory_.end(), addresses.begin(), addresses.end());
  static_cast<void>(stream.provide(addresses, current_));  // next() says the same
  return true;
}

void DeviceStreamTest::check_item(const Stream& stream, std::uint32_t item) {
  const auto& groups = *stream.device_groups();
  const PlanItem& wanted = checkpoint_.items[item];
  const auto index = groups.of_item[item];
  EXPECT_EQ(index == DeviceGroups::kNone, wanted.range.empty());
  if (wanted.range.empty()) return;
  ASSERT_LT(index, memory_.size());
  const std::uint64_t at = memory_[index] + groups.at[item];
  const auto bytes = fake.content(at, wanted.range.size());
  EXPECT_FALSE(first_wrong(bytes, checkpoint_.files[wanted.source].seed, wanted.range.begin))
      << "item " << item << " has wrong bytes on the device";
}

Consumed DeviceStreamTest::consume_on_device(Stream& stream, const Consumer& consumer) {
  Consumed consumed;
  const auto deadline = Stream::Clock::now() + kPatience;
  while (Stream::Clock::now() < deadline) {
    const bool more = top_up(stream, consumer);
    std::vector<ReadyItem> batch;
    auto next = stream.next(batch, more ? std::chrono::milliseconds(0) : std::chrono::milliseconds(100));
    if (!next) {
      EXPECT_TRUE(batch.empty()) << "items came with an error";
      consumed.error = std::move(next).error();
      return consumed;
    }
    if (*next == Stream::Next::kEnd) {
      consumed.ended = true;
      return consumed;
    }
    for (const auto& ready : batch) {
      EXPECT_FALSE(ready.lease) << "host memory was handed out";
      check_item(stream, ready.index);
      consumed.order.push_back(ready.index);
      if (consumer.with && !consumer.with(ready.index)) return consumed;
      const auto group = stream.device_groups()->of_item[ready.index];
      if (group == DeviceGroups::kNone || --left_[group] > 0 || !consumer.frees) continue;
      fake.free(std::exchange(memory_[group], 0));
    }
  }
  ADD_FAILURE() << "the stream does not end";
  return consumed;
}

}  // namespace weightstream::testing
