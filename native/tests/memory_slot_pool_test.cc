// Slots on their way out and back: growth, budgets, turns, and who is told.
#include "memory/slot_pool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "slot_pool_harness.h"

namespace weightstream {
namespace {

using testing::Client;
using testing::eventually;
using testing::FakePinner;
using testing::kSlot;
using testing::SlotPoolTest;
using testing::Watchdog;

TEST_F(SlotPoolTest, FirstSlotsAreThereBeforeTheNextStepIs) {
  pinner_->wait_at(2);
  Client client(*pool_, pinner_, 16);
  const auto first = client.acquire();
  const auto second = client.acquire();
  ASSERT_TRUE(eventually([&] { return pinner_->pins() == 2; })) << "it grows when the last slot is out";
  EXPECT_FALSE(client.try_acquire());
  EXPECT_EQ(pool_->stats().pinned_bytes, 2 * kSlot) << "what is being pinned is not there yet";
  EXPECT_EQ(pool_->stats().slots_in_use, 2U);
  pinner_->open();
  EXPECT_TRUE(client.acquire());
}

TEST_F(SlotPoolTest, IsPinnedBeforeAnybodyAsks) {
  Client client(*pool_, pinner_, 16);
  EXPECT_TRUE(eventually([&] { return pool_->stats().pinned_bytes > 0; }));
  EXPECT_EQ(client.wakes(), 0U) << "nobody waits";
}

TEST_F(SlotPoolTest, GrowsAsFarAsTheBudgetAndNoFurther) {
  Client client(*pool_, pinner_, 29);
  const auto slots = client.acquire(29);
  EXPECT_FALSE(client.try_acquire());
  const auto stats = pool_->stats();
  EXPECT_EQ(stats.pinned_bytes, 29 * kSlot);
  EXPECT_EQ(stats.peak_pinned_bytes, 29 * kSlot);
  EXPECT_EQ(stats.slots_in_use, 29U);
  EXPECT_GT(stats.growth_seconds, 0.0);
  EXPECT_FALSE(stats.refused);
  EXPECT_EQ(pinner_->bytes(), 29 * kSlot);
}

TEST_F(SlotPoolTest, PinsNoMoreThanIsNeeded) {
  Client client(*pool_, pinner_, 1000);
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(client.acquire());
  EXPECT_EQ(pinner_->bytes(), 2 * kSlot) << "one slot at a time never takes the last";
}

TEST_F(SlotPoolTest, SlotsTakeAnyOffsetOfAFile) {
  Client client(*pool_, pinner_, 7);
  auto slots = client.acquire(7);
  std::sort(slots.begin(), slots.end(), [](const auto& a, const auto& b) { return a.data() < b.data(); });
  const std::byte* end = nullptr;
  for (const auto& slot : slots) {
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot.data()) % 4096, 0U);
    EXPECT_GE(slot.data(), end) << "slots overlap";
    end = slot.data() + kSlot;
    EXPECT_TRUE(pinner_->covers(slot.data(), kSlot));
    for (const std::uint64_t offset : {0UL, 1UL, 4095UL, 4096UL, 123456789UL}) {
      std::byte* at = slot.place(offset);
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % 4096, offset % 4096);
      EXPECT_LE(at + Slot::kPayloadBytes, end);
      at[Slot::kPayloadBytes - 1] = std::byte{1};
    }
  }
}

TEST_F(SlotPoolTest, SlotsComeBackInAnyOrder) {
  Client client(*pool_, pinner_, 13);
  std::mt19937 random(7);
  for (int round = 0; round < 20; ++round) {
    auto slots = client.acquire(13);
    std::vector<std::byte*> places;
    for (const auto& slot : slots) places.push_back(slot.data());
    std::sort(places.begin(), places.end());
    EXPECT_EQ(std::unique(places.begin(), places.end()), places.end()) << "a slot was lent twice";
    std::shuffle(slots.begin(), slots.end(), random);
    while (!slots.empty()) slots.pop_back();
    EXPECT_EQ(pool_->stats().slots_in_use, 0U);
  }
  EXPECT_EQ(pinner_->bytes(), 13 * kSlot) << "what came back was used again";
}

TEST_F(SlotPoolTest, SlotIsFreeWhenTheLastOfItsCopiesGoes) {
  Client client(*pool_, pinner_, 1);
  Slot slot = client.acquire();
  Slot copy = slot;
  Slot moved = std::move(slot);
  Slot assigned;
  assigned = copy;
  EXPECT_EQ(moved.data(), assigned.data());
  copy.reset();
  moved.reset();
  EXPECT_EQ(pool_->stats().slots_in_use, 1U);
  EXPECT_FALSE(client.try_acquire());
  assigned = Slot{};
  EXPECT_EQ(pool_->stats().slots_in_use, 1U) << "it is set aside for who asked";
  EXPECT_TRUE(client.try_acquire());
  EXPECT_EQ(pool_->stats().slots_in_use, 0U);
}

TEST_F(SlotPoolTest, WhoHasAllOfItsBudgetIsToldWhenItsOwnComesBack) {
  Client large(*pool_, pinner_, 8);
  Client small(*pool_, pinner_, 2);
  auto held = small.acquire(2);
  EXPECT_FALSE(small.try_acquire()) << "the pool may have more, its budget has not";
  const auto others = large.acquire(4);
  const auto before = small.wakes();
  held.pop_back();
  EXPECT_GT(small.wakes(), before);
  EXPECT_TRUE(small.try_acquire());
}

TEST_F(SlotPoolTest, WaitersGetTheirTurnsInOrder) {
  Client a(*pool_, pinner_, 4);
  Client b(*pool_, pinner_, 4);
  auto of_a = a.acquire(4);
  const auto told_a = a.wakes();
  EXPECT_FALSE(b.try_acquire());
  EXPECT_FALSE(a.try_acquire());
  of_a.pop_back();
  EXPECT_EQ(b.wakes(), 1U);
  EXPECT_EQ(a.wakes(), told_a);
  EXPECT_FALSE(a.try_acquire()) << "what is b's turn is not a's, however soon it asks";
  of_a.pop_back();
  EXPECT_EQ(a.wakes(), told_a + 1);
  const auto of_b = b.try_acquire();
  EXPECT_TRUE(of_b);
  EXPECT_TRUE(a.try_acquire());
  EXPECT_EQ(pool_->stats().pinned_bytes, 4 * kSlot);
}

TEST_F(SlotPoolTest, TurnThatIsGivenUpIsTheNextOnes) {
  Client a(*pool_, pinner_, 1);
  Client b(*pool_, pinner_, 1);
  Client c(*pool_, pinner_, 1);
  auto slot = a.acquire();
  EXPECT_FALSE(b.try_acquire());
  EXPECT_FALSE(c.try_acquire());
  slot.reset();
  EXPECT_EQ(b.wakes(), 1U);
  EXPECT_EQ(c.wakes(), 0U);
  b.user().stop_waiting();
  EXPECT_EQ(c.wakes(), 1U);
  const auto told_a = a.wakes();
  EXPECT_FALSE(a.try_acquire());
  c.leave();
  EXPECT_EQ(a.wakes(), told_a + 1);
  EXPECT_TRUE(a.try_acquire());
}

// Each user runs two threads that hold up to three slots; what is written to a slot must be there when it goes.
TEST_F(SlotPoolTest, BudgetsHoldAndNoWakeIsLostUnderThreads) {
  constexpr std::array<std::uint64_t, 4> kBudgets{1, 2, 5, 8};
  pinner_->slow_down(std::chrono::microseconds(300));
  Watchdog watchdog;
  watchdog.begin("users with threads");
  std::vector<std::thread> threads;
  std::atomic<std::uint64_t> most_in_use = 0;
  for (std::size_t user = 0; user < kBudgets.size(); ++user) {
    threads.emplace_back([&, user] {
      Client client(*pool_, pinner_, kBudgets[user]);
      std::mt19937 random(static_cast<unsigned>(user));
      std::vector<Slot> held;
      for (std::uint32_t i = 0; i < 400; ++i) {
        auto slot = held.size() < kBudgets[user] && random() % 2 == 0 ? client.acquire() : client.try_acquire();
        if (slot) {
          std::memcpy(slot.data(), &i, sizeof i);
          std::memcpy(slot.data() + kSlot - sizeof i, &i, sizeof i);
          held.push_back(std::move(slot));
        }
        ASSERT_LE(held.size(), kBudgets[user]);
        most_in_use = std::max<std::uint64_t>(most_in_use, pool_->stats().slots_in_use);
        // Never hold all and wait for more, as no stream does.
        while (held.size() >= std::min<std::uint64_t>(kBudgets[user], 3) || (!held.empty() && random() % 3 == 0)) {
          const auto which = random() % held.size();
          ASSERT_EQ(std::memcmp(held[which].data(), held[which].data() + kSlot - sizeof i, sizeof i), 0);
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_LE(most_in_use, 8U);
  EXPECT_LE(pinner_->peak(), 8 * kSlot);
  EXPECT_EQ(pool_->stats().slots_in_use, 0U);
}

// A user that asks all the time does not keep another from its share.
TEST_F(SlotPoolTest, GreedyUserDoesNotStarveAnother) {
  Watchdog watchdog;
  watchdog.begin("a greedy user");
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> greedy = 0;
  Client second(*pool_, pinner_, 3);
  std::thread first([&] {
    Client client(*pool_, pinner_, 3);
    std::vector<Slot> held;
    while (!stop) {
      auto slot = client.try_acquire();
      if (slot) {
        ++greedy;
        held.push_back(std::move(slot));
      } else if (!held.empty()) {
        held.erase(held.begin());
      } else {
        std::this_thread::yield();
      }
    }
  });
  ASSERT_TRUE(eventually([&] { return greedy > 10; }));
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(second.acquire()) << "after " << i;
  stop = true;
  first.join();
}

TEST_F(SlotPoolTest, UsersOfADeviceShareItsMemory) {
  const auto spare = std::make_shared<FakePinner>();
  Client a(*pool_, pinner_, 4);
  {
    const auto slots = a.acquire(4);
  }
  Client b(*pool_, spare, 4);
  const auto slots = b.acquire(4);
  EXPECT_EQ(pinner_->bytes(), 4 * kSlot);
  EXPECT_EQ(spare->pins(), 0U);
}

TEST_F(SlotPoolTest, LimitIsThatOfTheLargestUserThatIsThere) {
  Client small(*pool_, pinner_, 3);
  {
    Client large(*pool_, pinner_, 14);
    const auto slots = large.acquire(14);
    EXPECT_EQ(pinner_->bytes(), 14 * kSlot);
  }
  EXPECT_TRUE(eventually([&] { return pool_->stats().pinned_bytes <= 3 * kSlot; }));
  const auto slots = small.acquire(3);
  EXPECT_EQ(pool_->stats().pinned_bytes, 3 * kSlot);
}

TEST_F(SlotPoolTest, WhatALargerUserLeftOutCountsUntilItIsBack) {
  Client small(*pool_, pinner_, 2);
  Client large(*pool_, pinner_, 8);
  auto left = large.acquire(3);
  large.leave();
  EXPECT_FALSE(small.try_acquire());
  left.pop_back();
  EXPECT_FALSE(small.try_acquire()) << "two are out still";
  left.pop_back();
  EXPECT_EQ(small.wakes(), 1U);
  EXPECT_TRUE(small.try_acquire());
  left.clear();
  const auto slots = small.acquire(2);
  EXPECT_TRUE(eventually([&] { return pool_->stats().pinned_bytes == 2 * kSlot; }));
}

TEST_F(SlotPoolTest, DevicesShareTheLimit) {
  const auto other = std::make_shared<FakePinner>();
  Client a(*pool_, pinner_, 14, "fake:0");
  auto of_a = a.acquire(14);
  Client b(*pool_, other, 14, "fake:1");
  EXPECT_FALSE(b.try_acquire());
  of_a.clear();
  std::vector<Slot> of_b = b.acquire(2);
  EXPECT_LE(pinner_->bytes() + other->bytes(), 14 * kSlot);
  of_a.push_back(a.acquire());
  // One that uses nothing gives way to the one that does, up to its share.
  while (of_b.size() < 6) of_b.push_back(b.acquire());
  EXPECT_LE(pool_->stats().peak_pinned_bytes, 14 * kSlot);
}

TEST_F(SlotPoolTest, DevicesTakeTurnsWhereThereIsOneSlotForAll) {
  const auto other = std::make_shared<FakePinner>();
  Watchdog watchdog;
  watchdog.begin("two devices and one slot");
  const auto use = [&](const std::shared_ptr<FakePinner>& pinner, const char* device) {
    Client client(*pool_, pinner, 1, device);
    for (int i = 0; i < 50; ++i) ASSERT_TRUE(client.acquire());
  };
  std::thread a([&] { use(pinner_, "fake:0"); });
  use(other, "fake:1");
  a.join();
  EXPECT_EQ(pool_->stats().peak_pinned_bytes, kSlot);
}

// Users of three devices come and go with budgets of all sizes: each gets on, and the limit holds for their sum.
TEST_F(SlotPoolTest, DevicesGetOnUnderThreads) {
  Watchdog watchdog;
  watchdog.begin("three devices");
  const std::array<std::shared_ptr<FakePinner>, 3> pinners{pinner_, std::make_shared<FakePinner>(),
                                                           std::make_shared<FakePinner>()};
  Client largest(*pool_, pinner_, 12, "fake:0");
  std::vector<std::thread> threads;
  for (std::size_t user = 0; user < 6; ++user) {
    threads.emplace_back([&, user] {
      std::mt19937 random(static_cast<unsigned>(user));
      for (int round = 0; round < 5; ++round) {
        const auto budget = 1 + random() % 12;
        Client client(*pool_, pinners[user % 3], budget, "fake:" + std::to_string(user % 3));
        std::vector<Slot> held;
        for (std::uint32_t i = 0; i < 60; ++i) {
          auto slot = held.empty() ? client.acquire() : client.try_acquire();
          if (slot) {
            slot.data()[0] = std::byte{1};
            held.push_back(std::move(slot));
          }
          if (!slot || held.size() == budget) held.erase(held.begin());
        }
      }
    });
  }
  for (auto& thread : threads) thread.join();
  const auto stats = pool_->stats();
  EXPECT_LE(stats.peak_pinned_bytes, 12 * kSlot);
  EXPECT_EQ(stats.slots_in_use, 0U);
}

// Somebody joins, or memory goes, while a step that is not pinned is on its way: what follows is not pinned either, and
// the reason stays known.
TEST(SlotBanks, KeepToMemoryThatIsNotPinnedWhileTheyGrow) {
  const auto pinner = std::make_shared<FakePinner>();
  SlotBanks banks;
  const auto bank = banks.open("cuda:0", pinner);
  const auto join = [&] {
    auto account = std::make_shared<SlotAccount>();
    account->bank = bank;
    account->most = 8;
    banks.add(*account);
    return account;
  };
  const auto first = join();
  const Error refused{.code = ErrorCode::kDevice, .message = "no more pages to lock"};
  banks.end_growth(*bank, banks.begin_growth(*bank), refused, true);
  ASSERT_TRUE(bank->not_pinned.has_value());
  const auto slots = banks.begin_growth(*bank);
  const auto second = join();
  EXPECT_TRUE(bank->not_pinned.has_value());
  auto memory = StagingMemory::pageable(*pinner, slots * kSlot);
  ASSERT_TRUE(memory.ok());
  banks.end_growth(*bank, slots, std::make_unique<SlotStep>(std::move(*memory), *bank, slots, kSlot));
  const auto more = banks.begin_growth(*bank);
  const auto idle = banks.take_idle(SlotBanks::Clock::time_point::max());
  ASSERT_EQ(idle.size(), 1U);
  banks.let_go(slots, 0);
  EXPECT_TRUE(bank->not_pinned.has_value());
  banks.end_growth(*bank, more, refused);
  const auto third = join();
  EXPECT_FALSE(bank->not_pinned.has_value()) << "it is tried again";
}

}  // namespace
}  // namespace weightstream
