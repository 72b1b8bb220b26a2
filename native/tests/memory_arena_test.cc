// The arena: a mirror of offsets whose memory goes back to the system as the tensors in it die.
#include "memory/arena.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "process_state.h"

namespace weightstream {
namespace {

using testing::in_child;
using testing::mapped_bytes;
using testing::resident_bytes;

constexpr std::uint64_t kBlock = Arena::kBlockBytes;
constexpr std::uint64_t kPage = Arena::kPageBytes;

std::shared_ptr<Arena> reserve(std::uint64_t size) {
  auto arena = Arena::reserve(size);
  EXPECT_TRUE(arena.ok());
  return std::move(arena).value();
}

// Writes to the range, as a read would.
void land(const Arena& arena, ByteRange range, int value = 1) {
  std::memset(arena.at(range.begin), value, range.size());
}

Lease take(Arena& arena, ByteRange range) {
  arena.hold(range);
  return arena.lease(range);
}

TEST(Arena, MirrorsOffsetsFromATwoMiBBoundary) {
  for (const std::uint64_t size : {std::uint64_t{1}, kPage, kBlock, kBlock + 1, 5 * kBlock - 1}) {
    const auto arena = reserve(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena->at(0)) % kBlock, 0U);
    EXPECT_EQ(arena->at(12345) - arena->at(0), 12345);
    EXPECT_GE(arena->capacity(), size);
    land(*arena, {0, arena->capacity()});  // all of it is there
  }
}

TEST(Arena, OfNothingCanBeReserved) { EXPECT_NE(reserve(0)->at(0), nullptr); }

TEST(Arena, CostsAddressSpaceOnlyAndGivesItBack) {
  const std::uint64_t size = std::uint64_t{64} << 30;
  const auto before = mapped_bytes();
  auto arena = reserve(size);
  EXPECT_GE(mapped_bytes(), before + size);
  EXPECT_EQ(resident_bytes(arena->at(0), 16 * kBlock), 0U);
  arena.reset();
  EXPECT_LT(mapped_bytes(), before + size / 2);
}

TEST(Arena, RefusedAddressSpaceIsAStorageErrorThatNamesTheLimit) {
  const int outcome = in_child([] {
    struct rlimit limit{};
    limit.rlim_cur = limit.rlim_max = mapped_bytes() + (64U << 20);
    if (::setrlimit(RLIMIT_AS, &limit) != 0) return 1;
    const auto arena = Arena::reserve(std::uint64_t{1} << 30);
    if (arena.ok()) return 2;
    if (arena.error().code != ErrorCode::kStorage || arena.error().system_errno != ENOMEM) return 3;
    if (arena.error().message.find("ulimit -v") == std::string::npos) return 4;
    return Arena::reserve(1 << 20).ok() ? 0 : 5;  // what fits is still given
  });
  EXPECT_EQ(outcome, 0);
}

TEST(Arena, MoreThanTheAddressSpaceIsRefused) {
  const auto arena = Arena::reserve(std::uint64_t{1} << 50);
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.error().code, ErrorCode::kStorage);
}

TEST(Lease, KeepsItsBytesWhenEveryOtherOwnerIsGone) {
  auto arena = reserve(4 * kBlock);
  const ByteRange range{kBlock + 100, kBlock + 5000};
  auto kept = take(*arena, range);
  auto other = take(*arena, {kBlock + 5000, 3 * kBlock});
  land(*arena, {0, 4 * kBlock}, 7);
  EXPECT_EQ(kept.data(), arena->at(range.begin));
  EXPECT_EQ(kept.size(), range.size());
  other = Lease();
  arena.reset();
  EXPECT_TRUE(std::all_of(kept.data(), kept.data() + kept.size(), [](std::byte b) { return b == std::byte{7}; }));
}

TEST(Lease, MovesByConstructionAndAssignment) {
  auto arena = reserve(2 * kBlock);
  auto first = take(*arena, {0, kBlock});
  land(*arena, {0, 2 * kBlock});
  Lease second(std::move(first));
  EXPECT_TRUE(second);
  EXPECT_FALSE(first);  // NOLINT(bugprone-use-after-move): that it is empty is the point
  Lease third = take(*arena, {kBlock, 2 * kBlock});
  third = std::move(second);  // ends the hold on the second block, and only that
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), kBlock);
  EXPECT_EQ(resident_bytes(arena->at(kBlock), kBlock), 0U);
}

TEST(Lease, ReturnsWholeBlocksWhenItDies) {
  auto arena = reserve(4 * kBlock);
  land(*arena, {0, 4 * kBlock});
  auto lease = take(*arena, {kBlock, 3 * kBlock});
  lease = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), kBlock);
  EXPECT_EQ(resident_bytes(arena->at(kBlock), 2 * kBlock), 0U);
  EXPECT_EQ(resident_bytes(arena->at(3 * kBlock), kBlock), kBlock);
}

TEST(Lease, SharedBlockOutlivesTheFirstOfTwo) {
  auto arena = reserve(kBlock);
  auto first = take(*arena, {0, 1000});
  auto second = take(*arena, {1000, 2000});
  land(*arena, {0, kBlock}, 3);
  first = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), kBlock);
  EXPECT_EQ(second.data()[0], std::byte{3});
  second = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), 0U);
}

// A hold for a tensor that was not read yet counts like a lease.
TEST(Lease, DeclaredHoldKeepsTheBlock) {
  auto arena = reserve(kBlock);
  arena->hold({kBlock / 2, kBlock});
  auto first = take(*arena, {0, 1000});
  land(*arena, {0, kBlock});
  first = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), kBlock);
  {
    const auto last = arena->lease({kBlock / 2, kBlock});
  }
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), 0U);
}

TEST(Lease, LargeOneReturnsItsOwnPagesOfBlocksThatLiveOn) {
  auto arena = reserve(2 * kBlock);
  const ByteRange large{kPage + 1, 2 * kBlock - kPage - 1};
  auto before = take(*arena, {0, large.begin});
  auto lease = take(*arena, large);
  auto after = take(*arena, {large.end, 2 * kBlock});
  land(*arena, {0, 2 * kBlock}, 5);
  lease = Lease();
  // All but the pages at both ends, which it shares.
  EXPECT_EQ(resident_bytes(arena->at(0), 2 * kBlock), 4 * kPage);
  EXPECT_EQ(before.data()[before.size() - 1], std::byte{5});
  EXPECT_EQ(after.data()[0], std::byte{5});
}

TEST(Lease, SmallOneLeavesASharedBlockWhole) {
  auto arena = reserve(kBlock);
  auto small = take(*arena, {0, 16 * kPage});
  auto rest = take(*arena, {16 * kPage, kBlock});
  land(*arena, {0, kBlock});
  small = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), kBlock);
}

TEST(Lease, OfZeroBytesHoldsNothing) {
  auto arena = reserve(2 * kBlock);
  auto empty = take(*arena, {kBlock, kBlock});
  auto lease = take(*arena, {0, 2 * kBlock});
  land(*arena, {0, 2 * kBlock});
  EXPECT_EQ(empty.size(), 0U);
  lease = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), 2 * kBlock), 0U);
}

// Many leases of odd sizes die on several threads at once: every block goes back exactly when its last one is gone.
TEST(Lease, DiesOnAnyThread) {
  constexpr std::uint64_t kBlocks = 16;
  constexpr std::uint64_t kSize = 37 * kPage + 123;
  constexpr std::size_t kThreads = 4;
  auto arena = reserve(kBlocks * kBlock);
  std::vector<std::vector<Lease>> leases(kThreads);
  std::size_t count = 0;
  for (std::uint64_t begin = 0; begin < kBlocks * kBlock; begin += kSize) {
    leases[count++ % kThreads].push_back(take(*arena, {begin, std::min(begin + kSize, kBlocks * kBlock)}));
  }
  land(*arena, {0, kBlocks * kBlock}, 9);
  Lease survivor = std::move(leases[0].back());
  const auto survivor_block = static_cast<std::uint64_t>(survivor.data() - arena->at(0)) / kBlock;
  std::vector<std::thread> threads;
  for (auto& mine : leases) {
    threads.emplace_back([&mine] {
      for (auto& lease : mine) {
        if (lease && lease.data()[lease.size() - 1] != std::byte{9}) ADD_FAILURE() << "bytes of a live lease changed";
        lease = Lease();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(resident_bytes(arena->at(0), survivor_block * kBlock), 0U);
  EXPECT_EQ(survivor.data()[0], std::byte{9});
  survivor = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlocks * kBlock), 0U);
}

TEST(Arena, HugePagesAreAdvisedOnlyInside) {
  auto arena = reserve(4 * kBlock);
  arena->advise_huge({0, 4 * kBlock});
  arena->advise_huge({kBlock + 1, kBlock + 2});  // less than half of a block: none
  land(*arena, {0, 4 * kBlock});
  auto lease = take(*arena, {0, 4 * kBlock});
  lease = Lease();
  EXPECT_EQ(resident_bytes(arena->at(0), 4 * kBlock), 0U);
}

}  // namespace
}  // namespace weightstream
