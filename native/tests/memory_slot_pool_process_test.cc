// What the slot pool leaves behind: memory that is let go, growth that fails, the order of ends, forks.
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "memory/numa.h"
#include "memory/slot_pool.h"
#include "slot_pool_harness.h"

namespace weightstream {
namespace {

using testing::Client;
using testing::count_threads;
using testing::eventually;
using testing::FakePinner;
using testing::in_child;
using testing::kSlot;
using testing::mapped_bytes;
using testing::resident_bytes;
using testing::SlotPoolTest;
using testing::Watchdog;

std::shared_ptr<SlotPool> impatient_pool() { return SlotPool::create({.idle_time = std::chrono::milliseconds(20)}); }

TEST_F(SlotPoolTest, IdleMemoryIsLetGoAndTheThreadWithIt) {
  const auto threads = count_threads();
  const auto pool = impatient_pool();
  Client client(*pool, pinner_, 16);
  {
    const auto slots = client.acquire(16);
  }
  EXPECT_TRUE(eventually([&] { return pinner_->bytes() == 0; }));
  EXPECT_TRUE(eventually([&] { return count_threads() <= threads; }));
  EXPECT_EQ(pool->stats().pinned_bytes, 0U);
  EXPECT_EQ(pinner_->unpins(), pinner_->pins());
  // The next one finds it all as at first.
  const auto slot = client.acquire();
  EXPECT_EQ(pool->stats().pinned_bytes, 2 * kSlot);
}

TEST_F(SlotPoolTest, WhatIsInUseIsNotIdle) {
  const auto pool = impatient_pool();
  Client client(*pool, pinner_, 16);
  auto slots = client.acquire(16);
  const Slot held = slots.front();
  std::memset(held.data(), 7, kSlot);
  slots.clear();
  EXPECT_TRUE(eventually([&] { return pinner_->bytes() == 2 * kSlot; }));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  EXPECT_TRUE(pinner_->covers(held.data(), kSlot));
  EXPECT_TRUE(std::all_of(held.data(), held.data() + kSlot, [](auto byte) { return byte == std::byte{7}; }));
}

TEST_F(SlotPoolTest, IdleTimeBeginsWhenTheLastSlotComesBack) {
  constexpr auto kIdle = std::chrono::milliseconds(400);
  const auto pool = SlotPool::create({.idle_time = kIdle});
  Client client(*pool, pinner_, 2);
  auto slot = client.acquire();
  std::this_thread::sleep_for(kIdle + std::chrono::milliseconds(20));
  const auto before = std::chrono::steady_clock::now();
  slot.reset();
  std::this_thread::sleep_for(kIdle / 8);
  const auto bytes = pinner_->bytes();
  if (std::chrono::steady_clock::now() < before + kIdle) {
    EXPECT_EQ(bytes, 2 * kSlot);  // a machine that was that slow proves nothing
  }
  EXPECT_TRUE(eventually([&] { return pinner_->bytes() == 0; }));
  EXPECT_GE(std::chrono::steady_clock::now(), before + kIdle);
}

TEST_F(SlotPoolTest, IsReleasedOnRequestAsFarAsItIsIdle) {
  Client client(*pool_, pinner_, 16);
  auto slots = client.acquire(16);
  Slot held = slots.front();
  slots.clear();
  pool_->release_idle();
  EXPECT_EQ(pinner_->bytes(), 2 * kSlot) << "the step of the slot that is out";
  EXPECT_EQ(pool_->stats().pinned_bytes, 2 * kSlot);
  std::memset(held.data(), 7, kSlot);
  held.reset();
  pool_->release_idle();
  pool_->release_idle();
  EXPECT_EQ(pinner_->bytes(), 0U);
  EXPECT_EQ(pool_->stats().peak_pinned_bytes, 16 * kSlot);
  EXPECT_TRUE(client.acquire());
}

TEST_F(SlotPoolTest, ReleasesWhileOthersComeAndGo) {
  Watchdog watchdog;
  watchdog.begin("release under threads");
  std::atomic<int> running = 3;
  std::vector<std::thread> threads;
  for (std::uint64_t budget = 1; budget <= 3; ++budget) {
    threads.emplace_back([&, budget] {
      for (int i = 0; i < 50; ++i) {
        Client client(*pool_, pinner_, 2 * budget);
        auto slot = client.acquire();
        if (i % 3 == 0) client.leave();
        slot.data()[kSlot - 1] = std::byte{1};
      }
      --running;
    });
  }
  while (running > 0) pool_->release_idle();
  for (auto& thread : threads) thread.join();
  pool_->release_idle();
  EXPECT_EQ(pinner_->bytes(), 0U);
  EXPECT_EQ(pool_->stats().pinned_bytes, 0U);
}

TEST_F(SlotPoolTest, NothingIsLeftOfManyRounds) {
  const auto round = [&] {
    const auto pool = impatient_pool();
    Client client(*pool, pinner_, 24);
    const auto slots = client.acquire(24);
    for (const auto& slot : slots) slot.data()[0] = std::byte{1};
  };
  round();  // the first thread of a process leaves its stack to the next
  const auto before = mapped_bytes();
  const auto threads = count_threads();
  for (int i = 0; i < 5; ++i) round();
  EXPECT_LT(mapped_bytes(), before + kSlot);
  EXPECT_TRUE(eventually([&] { return count_threads() <= threads; }));
  EXPECT_EQ(pinner_->bytes(), 0U);
  EXPECT_EQ(pinner_->unpins(), pinner_->pins());
}

TEST_F(SlotPoolTest, MemoryThatCannotBePinnedIsUsedAsItIs) {
  for (std::uint64_t call = 1; call <= 64; ++call) pinner_->fail_at(call);
  Client client(*pool_, pinner_, 16);
  auto slots = client.acquire(16);
  for (const auto& slot : slots) {
    EXPECT_FALSE(slot.pinned());
    std::memset(slot.data(), 7, kSlot);
  }
  EXPECT_FALSE(client.try_acquire()) << "the limit stays";
  EXPECT_EQ(pinner_->pins(), 1U) << "once refused is enough";
  auto stats = pool_->stats();
  EXPECT_EQ(stats.pinned_bytes + stats.peak_pinned_bytes, 0U);
  EXPECT_EQ(stats.pageable_bytes, 16 * kSlot);
  EXPECT_EQ(stats.refused->message, "no more pages to lock");
  ASSERT_TRUE(client.user().not_pinned());
  EXPECT_EQ(client.user().not_pinned()->message, "no more pages to lock");
  slots.clear();
  client.user().stop_waiting();
  const auto before = mapped_bytes();
  pool_->release_idle();
  EXPECT_LE(mapped_bytes() + 16 * kSlot, before);
  EXPECT_EQ(pool_->stats().pageable_bytes, 0U);
  EXPECT_FALSE(client.user().not_pinned());
}

TEST_F(SlotPoolTest, PinningIsTriedAgainWhenAllThatWasNotPinnedIsGone) {
  pinner_->fail_at(1);
  Client client(*pool_, pinner_, 2);
  EXPECT_FALSE(client.acquire().pinned());
  pool_->release_idle();
  EXPECT_TRUE(client.acquire().pinned());
  EXPECT_EQ(pool_->stats().pageable_bytes, 0U);
  EXPECT_EQ(pool_->stats().pinned_bytes, 2 * kSlot);
}

TEST_F(SlotPoolTest, DevicesThatCanBePinnedForAreNotThoseThatCannot) {
  const auto other = std::make_shared<FakePinner>();
  pinner_->fail_at(1);
  Client pageable(*pool_, pinner_, 4, "fake:0");
  EXPECT_FALSE(pageable.acquire().pinned());
  Client pinned(*pool_, other, 4, "fake:1");
  EXPECT_TRUE(pinned.acquire().pinned());
  EXPECT_FALSE(pinned.user().not_pinned());
}

TEST_F(SlotPoolTest, RefusalIsAnErrorWhereTheDeviceIsLost) {
  pinner_->lose_at(1);
  Client client(*pool_, pinner_, 16);
  const auto refused = client.acquire_or_fail();
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kDevice);
  EXPECT_EQ(refused.error().message, "no more pages to lock");
  EXPECT_FALSE(client.user().try_acquire().ok()) << "it stays so";
  EXPECT_EQ(pool_->stats().pinned_bytes, 0U);
  EXPECT_EQ(pool_->stats().refused->message, "no more pages to lock");
  // A new user has it tried again, for all.
  const auto pins = pinner_->pins();
  const Client next(*pool_, pinner_, 16);
  EXPECT_TRUE(eventually([&] { return pinner_->pins() > pins; }));
}

TEST_F(SlotPoolTest, AllWhoWaitHearOfTheRefusal) {
  pinner_->wait_at(1);
  pinner_->lose_at(1);
  Client a(*pool_, pinner_, 16);
  Client b(*pool_, pinner_, 3);
  EXPECT_FALSE(a.try_acquire());
  EXPECT_FALSE(b.try_acquire());
  pinner_->open();
  EXPECT_TRUE(a.is_told());
  EXPECT_TRUE(b.is_told());
  EXPECT_FALSE(a.user().try_acquire().ok());
  EXPECT_FALSE(b.user().try_acquire().ok());
}

TEST_F(SlotPoolTest, StaysAsSmallAsTheFirstRefusalLeavesIt) {
  constexpr std::array<std::uint64_t, 4> kSlotsBefore{2, 4, 8, 16};
  for (std::uint64_t call = 2; call <= 5; ++call) {
    const auto pinner = std::make_shared<FakePinner>();
    const auto pool = SlotPool::create({.idle_time = std::chrono::hours(1)});
    pinner->fail_at(call);
    Client client(*pool, pinner, 64);
    std::vector<Slot> slots;
    while (pinner->pins() < call || !pool->stats().refused) {
      auto slot = client.try_acquire();
      if (slot) slots.push_back(std::move(slot));
    }
    // What was pinned before is all there is; it goes round.
    while (slots.size() * kSlot < pool->stats().pinned_bytes) slots.push_back(client.acquire());
    EXPECT_FALSE(client.try_acquire());
    const auto has = slots.size();
    EXPECT_EQ(has, kSlotsBefore[call - 2]);
    slots.pop_back();
    slots.push_back(client.acquire());
    EXPECT_EQ(pinner->pins(), call) << "what was refused is not asked for again and again";
    EXPECT_EQ(pinner->bytes(), has * kSlot);
    // With the memory back it is another matter.
    slots.clear();
    client.user().stop_waiting();
    pool->release_idle();
    slots = client.acquire(has + 1);
  }
}

TEST_F(SlotPoolTest, MemoryThatTheSystemDoesNotHaveIsAnError) {
  const auto refused = StagingMemory::pinned(pinner_, std::uint64_t{1} << 60);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kStorage);
  EXPECT_EQ(refused.error().system_errno, ENOMEM);
  EXPECT_NE(refused.error().message.find("1152921504606846976 bytes"), std::string::npos);
  EXPECT_EQ(pinner_->pins(), 0U);
}

TEST_F(SlotPoolTest, BudgetWithoutRoomForASlotIsRefused) {
  const auto user = pool_->join("fake:0", pinner_, kSlot - 1, [] {});
  ASSERT_FALSE(user.ok());
  EXPECT_EQ(user.error().code, ErrorCode::kConfig);
  EXPECT_NE(user.error().message.find(std::to_string(kSlot)), std::string::npos);
}

TEST_F(SlotPoolTest, SlotsOutliveTheirUserAndThePool) {
  const std::weak_ptr<FakePinner> watched = pinner_;
  Client client(*pool_, pinner_, 4);
  auto slots = client.acquire(4);
  pinner_.reset();
  client.leave();
  pool_.reset();
  for (const auto& slot : slots) std::memset(slot.data(), 1, kSlot);
  slots.pop_back();
  EXPECT_FALSE(watched.expired());
  const auto* memory = slots.front().data();
  EXPECT_NE(resident_bytes(memory, kSlot), UINT64_MAX);
  slots.clear();
  EXPECT_TRUE(watched.expired());
  EXPECT_EQ(resident_bytes(memory, kSlot), UINT64_MAX) << "not mapped any more";
}

TEST_F(SlotPoolTest, PinnerGoesWithTheLastMemoryOfItsDevice) {
  const std::weak_ptr<FakePinner> watched = pinner_;
  {
    Client client(*pool_, pinner_, 4);
    EXPECT_TRUE(client.acquire());
    pinner_.reset();
    pool_->release_idle();
    EXPECT_FALSE(watched.expired()) << "its user may ask again";
    EXPECT_TRUE(client.acquire());
  }
  EXPECT_FALSE(watched.expired()) << "there is memory for the next user";
  pool_->release_idle();
  EXPECT_TRUE(watched.expired());
}

TEST_F(SlotPoolTest, EndsWhileItGrows) {
  pinner_->slow_down(std::chrono::milliseconds(20));
  {
    Client client(*pool_, pinner_, 64);
    EXPECT_FALSE(client.try_acquire());
    ASSERT_TRUE(eventually([&] { return pinner_->pins() == 1; }));
  }
  pool_.reset();
  EXPECT_EQ(pinner_->bytes(), 0U);
}

TEST_F(SlotPoolTest, ForkedChildLeavesAllToItsParent) {
  Watchdog watchdog;
  watchdog.begin("forks");
  std::atomic<bool> stop = false;
  std::thread busy([&] {  // so that the lock is taken at some of the forks
    Client client(*pool_, pinner_, 8);
    while (!stop) EXPECT_TRUE(client.acquire());
  });
  for (int i = 0; i < 20; ++i) {
    auto client = std::make_unique<Client>(*pool_, pinner_, 8);
    auto slot = client->acquire();
    const auto unpins = pinner_->unpins();
    EXPECT_EQ(in_child([&] {
                if (resident_bytes(slot.data(), kSlot) != UINT64_MAX) return 1;
                const auto refused = client->user().try_acquire();
                if (refused.ok() || refused.error().code != ErrorCode::kClosed) return 2;
                if (pool_->join("fake:0", pinner_, kSlot, [] {}).ok()) return 3;
                client->user().stop_waiting();
                pool_->release_idle();
                if (pool_->stats().pinned_bytes != 0) return 4;
                slot.reset();
                client->leave();
                pool_.reset();
                return 0;
              }),
              0);
    EXPECT_GE(pinner_->unpins(), unpins);
    EXPECT_TRUE(pinner_->covers(slot.data(), kSlot));
    slot.data()[0] = std::byte{1};
  }
  stop = true;
  busy.join();
}

TEST(SlotPoolOfProcess, IsOneForAllAndAnotherInAChild) {
  const auto pool = SlotPool::of_process();
  EXPECT_EQ(pool, SlotPool::of_process());
  EXPECT_EQ(in_child([&] {
              const auto own = SlotPool::of_process();
              return own != pool && own == SlotPool::of_process() ? 0 : 1;
            }),
            0);
}

TEST(StagingMemoryNode, IsPreferredWhereTheKernelHasNodes) {
  constexpr std::uint64_t kBytes = 1 << 20;
  constexpr unsigned long kOfAddress = 2;  // MPOL_F_ADDR
  constexpr int kPreferred = 1;  // MPOL_PREFERRED
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  auto* begin = static_cast<std::byte*>(memory);
  EXPECT_FALSE(prefer_numa_node(begin, kBytes, -1)) << "unknown";
  EXPECT_FALSE(prefer_numa_node(begin, kBytes, 1 << 20));
  int policy = -1;
  unsigned long nodes[1024 / (sizeof(long) * CHAR_BIT)] = {};
  if (::syscall(SYS_get_mempolicy, &policy, nodes, 1024UL, memory, kOfAddress) != 0) {
    EXPECT_FALSE(prefer_numa_node(begin, kBytes, 0));
    ::munmap(memory, kBytes);
    GTEST_SKIP() << "this kernel has no memory policies";
  }
  EXPECT_TRUE(prefer_numa_node(begin, kBytes, 0));
  ASSERT_EQ(::syscall(SYS_get_mempolicy, &policy, nodes, 1024UL, memory, kOfAddress), 0);
  EXPECT_EQ(policy, kPreferred);
  EXPECT_EQ(nodes[0], 1UL);
  std::memset(memory, 1, kBytes);
  ::munmap(memory, kBytes);
}

}  // namespace
}  // namespace weightstream
