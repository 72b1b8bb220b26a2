// Dead blocks that back the reads to come: their pages move, no byte of a living tensor does.
#include "memory/block_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "memory/arena.h"
#include "process_state.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace weightstream {
namespace {

using testing::resident_bytes;

constexpr std::uint64_t kBlock = Arena::kBlockBytes;

std::shared_ptr<Arena> reserve(std::uint64_t blocks, const std::shared_ptr<BlockPool>& pool) {
  auto arena = Arena::reserve(blocks * kBlock, pool);
  EXPECT_TRUE(arena.ok());
  return std::move(arena).value();
}

// Fills the range and lets its only lease die.
void live_and_die(Arena& arena, ByteRange range, int value) {
  arena.hold(range);
  const auto lease = arena.lease(range);
  std::memset(lease.data(), value, lease.size());
}

bool kernel_moves_pages() {
  void* from = ::mmap(nullptr, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  void* moved = ::mremap(from, 4096, 4096, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, nullptr);
  const bool works = moved != MAP_FAILED;
  if (works) ::munmap(moved, 4096);
  ::munmap(from, 8192);
  return works;
}

class BlockPoolTest : public ::testing::Test {
 protected:
  void TearDown() override { pool_->close(); }  // the arenas and their pool keep each other
  const std::shared_ptr<BlockPool> pool_ = std::make_shared<BlockPool>(3 * kBlock);
};

TEST_F(BlockPoolTest, KeepsDeadBlocksUpToItsSizeAndTheRestGoesBack) {
  const auto arena = reserve(5, pool_);
  live_and_die(*arena, {0, 5 * kBlock}, 1);
  EXPECT_EQ(pool_->kept_bytes(), 3 * kBlock);
  EXPECT_EQ(resident_bytes(arena->at(0), 5 * kBlock), 3 * kBlock);
}

TEST_F(BlockPoolTest, MovesPagesToWhereTheNextReadLands) {
  if (!kernel_moves_pages()) GTEST_SKIP() << "this kernel does not move pages";
  const auto from = reserve(3, pool_);
  const auto to = reserve(4, pool_);
  live_and_die(*from, {0, 3 * kBlock}, 7);
  to->recycle_into({kBlock + 1, 4 * kBlock});  // two whole blocks lie in it
  EXPECT_EQ(pool_->kept_bytes(), kBlock);
  EXPECT_EQ(resident_bytes(to->at(0), 2 * kBlock), 0U);
  EXPECT_EQ(resident_bytes(to->at(2 * kBlock), 2 * kBlock), 2 * kBlock);
  EXPECT_EQ(resident_bytes(from->at(0), 3 * kBlock), kBlock) << "the pages moved, they were not copied";
  // One more than there is: what is missing comes into being as usual.
  const auto more = reserve(2, pool_);
  more->recycle_into({0, 2 * kBlock});
  EXPECT_EQ(pool_->kept_bytes(), 0U);
  EXPECT_EQ(resident_bytes(more->at(0), 2 * kBlock), kBlock);
  std::memset(more->at(0), 1, 2 * kBlock);
}

// Moved blocks are mappings of their own; a tensor may lie across several, and die as one run.
TEST_F(BlockPoolTest, RunAcrossMappingsMovesOn) {
  if (!kernel_moves_pages()) GTEST_SKIP() << "this kernel does not move pages";
  const auto first = reserve(3, pool_);
  const auto second = reserve(2, pool_);
  const auto third = reserve(3, pool_);
  live_and_die(*first, {kBlock, 2 * kBlock}, 1);
  second->recycle_into({0, kBlock});
  live_and_die(*first, {0, kBlock}, 1);
  second->recycle_into({kBlock, 2 * kBlock});
  live_and_die(*second, {0, 2 * kBlock}, 2);
  third->recycle_into({0, 3 * kBlock});
  EXPECT_EQ(resident_bytes(third->at(0), 3 * kBlock), 2 * kBlock);
  std::memset(third->at(0), 3, 3 * kBlock);
  std::memset(second->at(0), 4, 2 * kBlock);
  EXPECT_EQ(third->at(kBlock)[0], std::byte{3});
}

TEST_F(BlockPoolTest, RefusedMoveLeavesMemoryInPlace) {
  const auto from = reserve(2, pool_);
  const auto to = reserve(2, pool_);
  live_and_die(*from, {0, 2 * kBlock}, 1);
  ASSERT_EQ(::munmap(from->at(0), kBlock), 0);  // nothing is there to be moved: the kernel refuses
  to->recycle_into({0, 2 * kBlock});
  EXPECT_EQ(pool_->kept_bytes(), 0U) << "after a refusal nothing is kept any more";
  std::memset(to->at(0), 5, 2 * kBlock);
  EXPECT_EQ(to->at(2 * kBlock - 1)[0], std::byte{5});
}

TEST_F(BlockPoolTest, ForkedChildKeepsNothing) {
  const auto arena = reserve(2, pool_);
  const pid_t child = ::fork();
  if (child == 0) ::_exit(pool_->keep(arena, {0, kBlock}) == 0 ? 0 : 1);
  int status = -1;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(status, 0);
}

TEST_F(BlockPoolTest, LivingNeighboursKeepTheirBytes) {
  const auto arena = reserve(3, pool_);
  const ByteRange left{0, kBlock + 100};
  const ByteRange right{2 * kBlock - 100, 3 * kBlock};
  arena->hold(left);
  arena->hold(right);
  const auto before = arena->lease(left);
  const auto after = arena->lease(right);
  std::memset(before.data(), 3, before.size());
  std::memset(after.data(), 4, after.size());
  live_and_die(*arena, {left.end, right.begin}, 5);
  const auto to = reserve(3, pool_);
  to->recycle_into({0, 3 * kBlock});
  std::memset(to->at(0), 6, 3 * kBlock);
  EXPECT_TRUE(std::all_of(before.data(), before.data() + before.size(), [](auto b) { return b == std::byte{3}; }));
  EXPECT_TRUE(std::all_of(after.data(), after.data() + after.size(), [](auto b) { return b == std::byte{4}; }));
}

TEST_F(BlockPoolTest, KeepsAnArenaOnlyUntilItIsClosed) {
  auto arena = reserve(3, pool_);
  live_and_die(*arena, {0, 3 * kBlock}, 1);
  const std::weak_ptr<Arena> watched = arena;
  arena.reset();
  EXPECT_FALSE(watched.expired());
  pool_->close();
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(pool_->kept_bytes(), 0U);
}

TEST_F(BlockPoolTest, ClosedPoolKeepsNothing) {
  const auto arena = reserve(2, pool_);
  live_and_die(*arena, {0, kBlock}, 1);
  pool_->close();
  EXPECT_EQ(resident_bytes(arena->at(0), kBlock), 0U);
  live_and_die(*arena, {kBlock, 2 * kBlock}, 1);
  EXPECT_EQ(resident_bytes(arena->at(kBlock), kBlock), 0U);
}

}  // namespace
}  // namespace weightstream
