// What shares device memory, and what gets some when.
#include <gtest/gtest.h>

#include <numeric>
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

TEST(DeviceGroups, PackSmallNeighbours) {
  const auto groups = make_device_groups(plan_of({4 * kKiB, 0, 8 * kKiB, 64 * kKiB, 64 * kKiB + 1, 16, 16}), true);
  EXPECT_EQ(group_sizes(groups), (std::vector<std::uint32_t>{3, 1, 2}));
  EXPECT_EQ(groups.of_item, (std::vector<std::uint32_t>{0, DeviceGroups::kNone, 0, 0, 1, 2, 2}));
  EXPECT_EQ(groups.groups[0].range, (ByteRange{0, 76 * kKiB}));
}

TEST(DeviceGroups, AreBounded) {
  const auto groups = make_device_groups(plan_of(std::vector<std::uint64_t>(64, 48 * kKiB)), true);
  for (const auto& group : groups.groups) EXPECT_LE(group.range.size(), kMiB);
  EXPECT_EQ(groups.groups.size(), 4U);
}

TEST(DeviceGroups, KeepItemsWhereKernelsCanLoadThem) {
  // 520 bytes is no multiple of 16: what follows begins a group of its own, unless it is tiny.
  EXPECT_EQ(group_sizes(make_device_groups(plan_of({520, 600}), true)), (std::vector<std::uint32_t>{1, 1}));
  EXPECT_EQ(group_sizes(make_device_groups(plan_of({520, 8}, 8), true)), (std::vector<std::uint32_t>{2}));
  EXPECT_EQ(group_sizes(make_device_groups(plan_of({516, 8}, 8), true)), (std::vector<std::uint32_t>{1, 1}));
  EXPECT_EQ(group_sizes(make_device_groups(plan_of({528, 600}), true)), (std::vector<std::uint32_t>{2}));
}

TEST(DeviceGroups, LeaveGapsAndOtherSourcesAlone) {
  std::vector<PlanItem> items{{.source = 0, .range = {0, 32}},
                              {.source = 0, .range = {48, 64}},
                              {.source = 1, .range = {64, 80}},
                              {.source = 1, .range = {80, 96}}};
  const auto groups = make_device_groups(make_plan(items, {}), true);
  EXPECT_EQ(group_sizes(groups), (std::vector<std::uint32_t>{1, 1, 2}));
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
