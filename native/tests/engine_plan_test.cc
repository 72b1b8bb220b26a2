// The plan, against what must hold for any plan: every wanted byte in exactly one read, no block twice, books that add
// up. Random plans come from a seeded generator and are compared with a count of every 4 KiB block.
#include "engine/plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <utility>
#include <vector>

namespace weightstream {
namespace {

constexpr std::uint64_t kBlock = 4096;
constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;

constexpr PlanOptions kSmall{
    .read_bytes = 64 * kKiB, .least_read_bytes = 16 * kKiB, .most_gap_bytes = 32 * kKiB, .tail_reads = 4};

using Block = std::pair<std::uint32_t, std::uint64_t>;  // source, block number

std::set<Block> wanted_blocks(const std::vector<PlanItem>& items) {
  std::set<Block> blocks;
  for (const auto& item : items) {
    if (item.range.empty()) continue;
    for (auto b = item.range.begin / kBlock; b <= (item.range.end - 1) / kBlock; ++b) blocks.insert({item.source, b});
  }
  return blocks;
}

// Bytes that the two ranges have in common.
std::uint64_t common(ByteRange a, ByteRange b) {
  const auto begin = std::max(a.begin, b.begin);
  const auto end = std::min(a.end, b.end);
  return end > begin ? end - begin : 0;
}

void expect_sound(const Plan& plan, const PlanOptions& options) {
  // Reads: aligned, in file order, no block twice, no larger than asked for.
  std::map<Block, std::uint32_t> read_of_block;
  for (std::uint32_t i = 0; i < plan.reads.size(); ++i) {
    const auto& read = plan.reads[i];
    ASSERT_LT(read.range.begin, read.range.end);
    ASSERT_EQ(read.range.begin % kBlock, 0U);
    ASSERT_EQ(read.range.end % kBlock, 0U);
    ASSERT_LE(read.range.size(), options.read_bytes);
    if (i > 0) {
      const auto& before = plan.reads[i - 1];
      ASSERT_TRUE(before.source < read.source ||
                  (before.source == read.source && before.range.end <= read.range.begin));
    }
    for (auto b = read.range.begin / kBlock; b < read.range.end / kBlock; ++b) {
      ASSERT_TRUE(read_of_block.emplace(Block{read.source, b}, i).second) << "block " << b << " is read twice";
    }
  }
  // Every wanted block is read; what is read beyond those lies in gaps that are not too wide.
  const auto wanted = wanted_blocks(plan.items);
  for (const auto& block : wanted) ASSERT_TRUE(read_of_block.contains(block)) << "block " << block.second << " missing";
  std::uint64_t gap = 0;
  for (const auto& [block, read] : read_of_block) {
    gap = wanted.contains(block) ? 0 : gap + kBlock;
    ASSERT_LE(gap, options.most_gap_bytes);
  }
  // Items and reads point at each other.
  std::vector<std::uint64_t> wasted(plan.reads.size());
  for (std::size_t r = 0; r < plan.reads.size(); ++r) wasted[r] = plan.reads[r].range.size();
  for (std::uint32_t i = 0; i < plan.items.size(); ++i) {
    const auto& item = plan.items[i];
    std::uint64_t covered = 0;
    std::uint32_t overlapping = 0;
    std::uint64_t span = 0;
    for (std::size_t r = 0; r < plan.reads.size(); ++r) {
      const auto& read = plan.reads[r];
      const auto bytes = read.source == item.source ? common(read.range, item.range) : 0;
      if (bytes == 0) continue;
      covered += bytes;
      wasted[r] -= bytes;
      span += read.range.size();
      ++overlapping;
      ASSERT_GE(i, read.first_item);
      ASSERT_LT(i, read.first_item + read.items);
      ASSERT_GE(r, plan.item_reads[i].begin);
      ASSERT_LT(r, plan.item_reads[i].end);
    }
    ASSERT_EQ(covered, item.range.size());
    ASSERT_EQ(plan.reads_left[i], overlapping);
    ASSERT_EQ(plan.item_reads[i].size(), overlapping);
    ASSERT_EQ(plan.span(i), span);
  }
  for (std::size_t r = 0; r < plan.reads.size(); ++r) ASSERT_EQ(plan.reads[r].wasted, wasted[r]);
  // Extents are what the reads are cut from.
  std::size_t r = 0;
  for (const auto& extent : plan.extents) {
    auto at = extent.range.begin;
    while (at < extent.range.end) {
      ASSERT_LT(r, plan.reads.size());
      ASSERT_EQ(plan.reads[r].source, extent.source);
      ASSERT_EQ(plan.reads[r].range.begin, at);
      at = plan.reads[r++].range.end;
    }
    ASSERT_EQ(at, extent.range.end);
  }
  ASSERT_EQ(r, plan.reads.size());
}

TEST(Plan, OfNothingIsEmpty) {
  const auto plan = make_plan({}, kSmall);
  EXPECT_TRUE(plan.reads.empty());
  EXPECT_TRUE(plan.extents.empty());
}

TEST(Plan, OneByteCostsOneBlock) {
  const auto plan = make_plan({{0, {5000, 5001}}}, kSmall);
  ASSERT_EQ(plan.reads.size(), 1U);
  EXPECT_EQ(plan.reads[0].range, (ByteRange{4096, 8192}));
  EXPECT_EQ(plan.reads[0].wasted, 4095U);
  EXPECT_EQ(plan.span(0), 4096U);
}

TEST(Plan, EmptyItemsNeedNoReads) {
  const auto plan = make_plan({{0, {100, 100}}, {0, {100, 200}}, {0, {200, 200}}, {1, {0, 0}}, {2, {50, 50}}}, kSmall);
  expect_sound(plan, kSmall);
  EXPECT_EQ(plan.reads.size(), 1U);
  EXPECT_EQ(plan.reads_left, (std::vector<std::uint32_t>{0, 1, 0, 0, 0}));
  EXPECT_EQ(plan.span(0), 0U);
}

TEST(Plan, NeighboursShareTheirBlock) {
  const auto plan = make_plan({{0, {10, 5000}}, {0, {5000, 9000}}}, kSmall);
  expect_sound(plan, kSmall);
  ASSERT_EQ(plan.reads.size(), 1U);
  EXPECT_EQ(plan.reads[0].items, 2U);
}

TEST(Plan, NarrowGapsAreReadThroughAndWideOnesAreSkipped) {
  const auto gap = kSmall.most_gap_bytes;
  const auto narrow = make_plan({{0, {0, kBlock}}, {0, {kBlock + gap, 2 * kBlock + gap}}}, kSmall);
  expect_sound(narrow, kSmall);
  EXPECT_EQ(narrow.extents.size(), 1U);
  const auto wide = make_plan({{0, {0, kBlock}}, {0, {2 * kBlock + gap, 3 * kBlock + gap}}}, kSmall);
  expect_sound(wide, kSmall);
  EXPECT_EQ(wide.extents.size(), 2U);
}

TEST(Plan, WiderGapsAreReadThroughWhereTheSourceIsRemote) {
  PlanOptions options = kSmall;
  options.most_remote_gap_bytes = 4 * options.most_gap_bytes;
  options.remote = {false, true};
  const auto apart = [&](std::uint32_t source, std::uint64_t gap) {
    return make_plan({{source, {0, kBlock}}, {source, {kBlock + gap, 2 * kBlock + gap}}}, options).extents.size();
  };
  EXPECT_EQ(apart(0, options.most_remote_gap_bytes), 2U);
  EXPECT_EQ(apart(1, options.most_remote_gap_bytes), 1U);
  EXPECT_EQ(apart(1, options.most_remote_gap_bytes + kBlock), 2U);
  EXPECT_EQ(apart(2, options.most_remote_gap_bytes), 2U);  // of a source that nobody calls remote
}

TEST(Plan, SourcesAreNeverReadAsOne) {
  const auto plan = make_plan({{0, {0, kBlock}}, {1, {kBlock, 2 * kBlock}}, {3, {0, 1}}}, kSmall);
  expect_sound(plan, kSmall);
  EXPECT_EQ(plan.extents.size(), 3U);
}

TEST(Plan, FullReadsAreCutAtMultiplesOfTheirSize) {
  const auto plan = make_plan({{0, {100, 2 * kMiB}}}, kSmall);
  expect_sound(plan, kSmall);
  for (std::size_t i = 1; i < 8; ++i) EXPECT_EQ(plan.reads[i].range.begin % kSmall.read_bytes, 0U);
  EXPECT_EQ(plan.reads[1].range.size(), kSmall.read_bytes);
}

TEST(Plan, ReadsShrinkTowardsTheEnd) {
  const auto plan = make_plan({{0, {0, 2 * kMiB}}}, kSmall);
  expect_sound(plan, kSmall);
  EXPECT_EQ(plan.reads.front().range.size(), kSmall.read_bytes);
  EXPECT_EQ(plan.reads.back().range.size(), kSmall.least_read_bytes);
  for (std::size_t i = 1; i < plan.reads.size(); ++i) {
    EXPECT_LE(plan.reads[i].range.size(), plan.reads[i - 1].range.size());
  }
}

TEST(Plan, LargeItemSpansManyReadsAndSmallOnesShareOne) {
  std::vector<PlanItem> items{{0, {0, kMiB}}};
  for (std::uint64_t i = 0; i < 100; ++i) items.push_back({0, {kMiB + i * 10, kMiB + (i + 1) * 10}});
  const auto plan = make_plan(items, kSmall);
  expect_sound(plan, kSmall);
  EXPECT_GE(plan.reads_left[0], 16U);
  EXPECT_EQ(plan.reads.back().items, 100U);
}

TEST(Plan, OffsetsBeyond32BitsAndTwoTebibytes) {
  constexpr std::uint64_t kFar = std::uint64_t{3} << 40;
  const auto plan = make_plan(
      {{0, {kFar + 5, kFar + kMiB}}, {0, {kFar + (std::uint64_t{5} << 32), kFar + (std::uint64_t{5} << 32) + 7}}},
      kSmall);
  expect_sound(plan, kSmall);
  EXPECT_EQ(plan.reads.front().range.begin, kFar);
}

TEST(Plan, DefaultsForALargeSource) {
  constexpr std::uint64_t kSize = std::uint64_t{10} << 30;
  const PlanOptions options;
  const auto plan = make_plan({{0, {0, kSize}}}, options);
  std::uint64_t bytes = 0;
  for (const auto& read : plan.reads) bytes += read.range.size();
  EXPECT_EQ(bytes, kSize);
  EXPECT_EQ(plan.reads[10].range.size(), options.read_bytes);
  EXPECT_EQ(plan.reads_left[0], plan.reads.size());
}

std::vector<PlanItem> random_items(std::mt19937_64& random) {
  const auto below = [&](std::uint64_t bound) { return random() % bound; };
  std::vector<PlanItem> items;
  const auto sources = 1 + below(4);
  for (std::uint32_t source = 0; source < sources; ++source) {
    if (below(8) == 0) continue;  // nothing of this one
    std::uint64_t at = below(3) == 0 ? below(100'000) : 8 + below(3000);
    for (auto count = below(40); count > 0; --count) {
      // Mostly one after the other, as in a file; now and then a hole.
      if (below(4) == 0) at += below(2) == 0 ? below(2 * kBlock) : below(100 * kKiB);
      const std::uint64_t sizes[] = {0, below(16), below(kBlock), kBlock, below(200 * kKiB)};
      const auto size = sizes[below(5)];
      items.push_back({source, {at, at + size}});
      at += size;
    }
  }
  return items;
}

TEST(Plan, RandomPlansAreSound) {
  std::mt19937_64 random(20240607);
  constexpr std::uint64_t kReads[] = {4 * kKiB, 16 * kKiB, 64 * kKiB, 256 * kKiB};
  for (int round = 0; round < 400; ++round) {
    PlanOptions options;
    options.read_bytes = kReads[random() % 4];
    options.least_read_bytes = std::min(options.read_bytes, kReads[random() % 4]);
    options.most_gap_bytes = kBlock * (random() % 10);
    options.tail_reads = static_cast<std::uint32_t>(random() % 6);
    expect_sound(make_plan(random_items(random), options), options);
    ASSERT_FALSE(HasFatalFailure()) << "round " << round;
  }
}

}  // namespace
}  // namespace weightstream
