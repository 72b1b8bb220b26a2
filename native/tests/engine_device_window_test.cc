// What shares device memory, and what gets some when.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "engine/device_groups.h"
#include "engine/device_window.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kKiB = 1 << 10;
constexpr std::uint64_t kMiB = 1 << 20;

// Items of these sizes, one behind the other.
Plan plan_of(const std::vector<std::uint64_t>& sizes, std::uint32_t alignment = 1, std::uint64_t begin = 0) {
  std::vector<PlanItem> items;
  for (const auto size : sizes) {
    items.push_back({.source = 0, .range = {begin, begin + size}, .alignment = alignment});
    begin += size;
  }
  return make_plan(std::move(items), {.read_bytes = kMiB, .tail_reads = 0});
}

std::vector<std::uint32_t> group_sizes(const DeviceGroups& groups) {
  std::vector<std::uint32_t> sizes;
  for (const auto& group : groups.groups) sizes.push_back(group.items);
  return sizes;
}

std::vector<std::uint32_t> run_sizes(const DeviceGroups& groups) {
  std::vector<std::uint32_t> sizes;
  for (const auto& group : groups.groups) sizes.push_back(group.runs);
  return sizes;
}

TEST(DeviceGroups, PackSmallNeighbours) {
  const auto groups = make_device_groups(plan_of({4 * kKiB, 0, 8 * kKiB, 64 * kKiB, 64 * kKiB + 1, 16, 16}), true);
  EXPECT_EQ(group_sizes(groups), (std::vector<std::uint32_t>{3, 1, 2}));
  EXPECT_EQ(groups.of_item, (std::vector<std::uint32_t>{0, DeviceGroups::kNone, 0, 0, 1, 2, 2}));
  EXPECT_EQ(groups.groups[0].bytes, 76 * kKiB);
  EXPECT_EQ(run_sizes(groups), (std::vector<std::uint32_t>{1, 1, 1}));
}

TEST(DeviceGroups, AreBounded) {
  const auto groups = make_device_groups(plan_of(std::vector<std::uint64_t>(64, 48 * kKiB)), true);
  for (const auto& group : groups.groups) EXPECT_LE(group.bytes, kMiB);
  EXPECT_EQ(groups.groups.size(), 4U);
}

TEST(DeviceGroups, KeepItemsWhereKernelsCanLoadThem) {
  // 520 bytes is no multiple of 16: what follows begins a run of its own, unless it is tiny.
  const auto runs = [](const std::vector<std::uint64_t>& sizes, std::uint32_t alignment) {
    const auto groups = make_device_groups(plan_of(sizes, alignment), true);
    EXPECT_EQ(groups.groups.size(), 1U);
    return run_sizes(groups).front();
  };
  EXPECT_EQ(runs({520, 600}, 1), 2U);
  EXPECT_EQ(runs({520, 8}, 8), 1U);
  EXPECT_EQ(runs({516, 8}, 8), 2U);
  EXPECT_EQ(runs({528, 600}, 1), 1U);
  EXPECT_EQ(runs({528, 600, 512, 520, 8, 600, 16}, 8), 2U);
}

// Items of any size and alignment: where each lies, that nothing lies twice, and that runs are what the source has.
TEST(DeviceGroups, HaveAPlaceForEveryByte) {
  std::mt19937 random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<PlanItem> items;
    std::uint64_t offset = 8 + random() % 64;
    for (int i = 0; i < 400; ++i) {
      const std::uint64_t size = random() % 3 == 0 ? random() % 40 : random() % (70 * kKiB);
      items.push_back({.source = 0, .range = {offset, offset + size}, .alignment = 1U << random() % 4});
      offset += size + (random() % 20 == 0 ? random() % 5000 : 0);
    }
    const auto plan = make_plan(items, {});
    const auto groups = make_device_groups(plan, true);
    for (std::uint32_t i = 0; i < items.size(); ++i) {
      const auto& item = items[i];
      if (item.range.empty()) continue;
      const auto& group = groups.groups[groups.of_item[i]];
      EXPECT_EQ(groups.at[i] % (item.range.size() < 512 ? item.alignment : 16), 0U);
      EXPECT_LE(groups.at[i] + item.range.size(), group.bytes);
      const auto found = groups.runs_in(group, item.range);
      ASSERT_EQ(found.size(), 1U) << "an item is copied in one go, as far as reads go";
      EXPECT_LE(found[0].range.begin, item.range.begin);
      EXPECT_GE(found[0].range.end, item.range.end);
      EXPECT_EQ(found[0].at + (item.range.begin - found[0].range.begin), groups.at[i]);
    }
    for (const auto& group : groups.groups) {
      EXPECT_TRUE(group.items == 1 || group.bytes <= kMiB);
      std::uint64_t end = 0;
      for (auto run = group.first_run; run < group.first_run + group.runs; ++run) {
        EXPECT_TRUE(groups.runs[run].at >= end && groups.runs[run].at < end + 16);
        end = groups.runs[run].at + groups.runs[run].range.size();
      }
      EXPECT_EQ(end, group.bytes);
    }
  }
}

TEST(DeviceGroups, ReachOverGapsAndNotIntoOtherSources) {
  std::vector<PlanItem> items{{.source = 0, .range = {0, 32}},
                              {.source = 0, .range = {48, 64}},
                              {.source = 1, .range = {64, 80}},
                              {.source = 1, .range = {80, 96}}};
  const auto groups = make_device_groups(make_plan(items, {}), true);
  EXPECT_EQ(group_sizes(groups), (std::vector<std::uint32_t>{2, 2}));
  EXPECT_EQ(run_sizes(groups), (std::vector<std::uint32_t>{2, 1}));
}

TEST(DeviceGroups, KnowTheRunsInARange) {
  const auto groups = make_device_groups(plan_of({520, 600, 600, 16}), true);
  ASSERT_EQ(run_sizes(groups), (std::vector<std::uint32_t>{3}));  // [0, 520), [520, 1120), [1120, 1736)
  const auto count = [&](std::uint64_t begin, std::uint64_t end) {
    return groups.runs_in(groups.groups[0], {begin, end}).size();
  };
  EXPECT_EQ(count(0, 4096), 3U);
  EXPECT_EQ(count(0, 520), 1U);
  EXPECT_EQ(count(519, 521), 2U);
  EXPECT_EQ(count(520, 1120), 1U);
  EXPECT_EQ(count(1736, 4096), 0U);
}

TEST(DeviceGroups, KnowWhichGroupsAReadHasBytesOf) {
  const auto plan = plan_of({kMiB / 2, kMiB, kMiB / 2, 10, 10});
  const auto groups = make_device_groups(plan, true);
  ASSERT_EQ(plan.reads.size(), 3U);
  EXPECT_EQ(groups.of_read[0].begin, 0U);
  EXPECT_EQ(groups.of_read[0].end, 2U);
  EXPECT_EQ(groups.of_read[1].begin, 1U);
  EXPECT_EQ(groups.of_read[1].end, 3U);
  EXPECT_EQ(groups.of_read[2].begin, 3U);
  EXPECT_EQ(groups.of_read[2].end, 4U);
}

class DeviceWindowTest : public ::testing::Test {
 protected:
  // Three of 1.5 MiB over reads of 1 MiB.
  const Plan plan = plan_of({kMiB * 3 / 2, kMiB * 3 / 2, kMiB * 3 / 2});
  const DeviceGroups groups = make_device_groups(plan, true);
  ReadyItems ready{plan.items.size(), false};

  static std::uint32_t count(DeviceGroups::Span span) { return span.end - span.begin; }
};

TEST_F(DeviceWindowTest, AsksForWhatFits) {
  DeviceWindow window(plan, groups, ready, 3 * kMiB);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 2U);
  EXPECT_EQ(count(window.due(1)), 1U);
  EXPECT_FALSE(window.covers(0));
  window.provide(1000, 0);
  EXPECT_TRUE(window.covers(0));
  EXPECT_FALSE(window.covers(1)) << "half of it belongs to the second";
  window.provide(2000, 1);
  EXPECT_TRUE(window.covers(1));
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U);
  EXPECT_EQ(window.place(1).address, 2000U);
  EXPECT_EQ(window.place(1).order, 1U);
  ready.complete(0);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U) << "it is not handed out";
  window.taken(ready.take());
  EXPECT_EQ(count(window.due(UINT64_MAX)), 1U);
  EXPECT_EQ(window.peak(), 3 * kMiB);
}

TEST_F(DeviceWindowTest, GrantsWhatTheOldestNeedsAndNoMore) {
  DeviceWindow window(plan, groups, ready, 1);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 2U) << "they share a read";
  window.provide(0, 0);
  window.provide(0, 0);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U);
  ready.complete(0);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U) << "the first is still there";
  window.taken(ready.take());
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U) << "the second has all that it needs";
  ready.complete(1);
  window.taken(ready.take());
  EXPECT_EQ(count(window.due(UINT64_MAX)), 1U);
}

TEST_F(DeviceWindowTest, TakesItemsOfNoBytes) {
  const Plan empty = plan_of({0, 16, 0});
  const auto packed = make_device_groups(empty, true);
  ReadyItems items(3, false);
  for (const std::uint32_t item : {0, 2}) items.complete(item);
  DeviceWindow window(empty, packed, items, kMiB);
  window.taken(0);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 1U);
  window.provide(0, 0);
  EXPECT_EQ(count(window.due(UINT64_MAX)), 0U);
}

}  // namespace
}  // namespace weightstream
