// What the tests of the slot pool share: a pinner that counts, waits and fails as told, and a user that waits for
// wakes.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "memory/slot_pool.h"
#include "process_state.h"

namespace weightstream::testing {

inline constexpr std::uint64_t kSlot = Slot::kBytes;

class FakePinner final : public Pinner {
 public:
  // The k-th call of pin(), from 1, fails; or waits until open() is called.
  void fail_at(std::uint64_t call) { fails_.insert(call); }
  // The same, and the device is lost.
  void lose_at(std::uint64_t call) { loses_at_ = call; }
  void wait_at(std::uint64_t call) { waits_at_ = call; }
  void slow_down(std::chrono::microseconds time) { time_ = time; }
  void open() {
    {
      const std::lock_guard lock(mutex_);
      waits_at_ = UINT64_MAX;
    }
    opened_.notify_all();
  }

  Result<Ok> pin(std::byte* at, std::uint64_t bytes) override {
    std::unique_lock lock(mutex_);
    const auto call = ++pins_;
    opened_.wait(lock, [&] { return call < waits_at_; });
    if (time_.count() > 0) {
      lock.unlock();
      std::this_thread::sleep_for(time_);
      lock.lock();
    }
    if (call == loses_at_) usable_ = false;
    if (!usable_ || fails_.contains(call)) return Error{.code = ErrorCode::kDevice, .message = "no more pages to lock"};
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(at) % StagingMemory::kAlignment, 0U);
    EXPECT_TRUE(ranges_.emplace(at, bytes).second);
    bytes_ += bytes;
    peak_ = std::max(peak_, bytes_);
    return Ok{};
  }

  void unpin(std::byte* at, std::uint64_t bytes) noexcept override {
    const std::lock_guard lock(mutex_);
    ++unpins_;
    const auto found = ranges_.find(at);
    ASSERT_TRUE(found != ranges_.end());
    EXPECT_EQ(found->second, bytes);
    ranges_.erase(found);
    bytes_ -= bytes;
  }

  [[nodiscard]] bool usable() const override { return usable_; }
  [[nodiscard]] int numa_node() const override { return 0; }

  [[nodiscard]] std::uint64_t pins() const { return locked(pins_); }
  [[nodiscard]] std::uint64_t unpins() const { return locked(unpins_); }
  [[nodiscard]] std::uint64_t bytes() const { return locked(bytes_); }
  [[nodiscard]] std::uint64_t peak() const { return locked(peak_); }
  [[nodiscard]] bool covers(const std::byte* at, std::uint64_t bytes) const {
    const std::lock_guard lock(mutex_);
    for (const auto& [begin, size] : ranges_) {
      if (at >= begin && at + bytes <= begin + size) return true;
    }
    return false;
  }

 private:
  [[nodiscard]] std::uint64_t locked(const std::uint64_t& number) const {
    const std::lock_guard lock(mutex_);
    return number;
  }

  mutable std::mutex mutex_;
  std::condition_variable opened_;
  std::map<std::byte*, std::uint64_t> ranges_;
  std::set<std::uint64_t> fails_;
  std::uint64_t waits_at_ = UINT64_MAX;
  std::uint64_t loses_at_ = UINT64_MAX;
  std::atomic<bool> usable_ = true;
  std::chrono::microseconds time_{0};
  std::uint64_t pins_ = 0;
  std::uint64_t unpins_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t peak_ = 0;
};

// A user that does what a stream does: acquires, and when there is nothing waits to be told.
class Client {
 public:
  Client(SlotPool& pool, const std::shared_ptr<Pinner>& pinner, std::uint64_t slots,
         const std::string& device = "fake:0") {
    auto user = pool.join(device, pinner, slots * kSlot, [this] {
      const std::lock_guard lock(mutex_);
      ++wakes_;
      woken_.notify_all();
    });
    EXPECT_TRUE(user.ok());
    if (user) user_ = std::move(user).value();
  }

  // A slot, or empty, at once.
  [[nodiscard]] Slot try_acquire() {
    auto slot = user_->try_acquire();
    EXPECT_TRUE(slot.ok()) << slot.error().message;
    return slot ? std::move(slot).value() : Slot{};
  }

  // Waits, but not for ever: then the handle is empty.
  [[nodiscard]] Result<Slot> acquire_or_fail() {
    while (true) {
      const auto before = wakes();
      auto slot = user_->try_acquire();
      if (!slot || *slot) return slot;
      std::unique_lock lock(mutex_);
      if (!woken_.wait_for(lock, kPatience, [&] { return wakes_ != before; })) return Slot{};
    }
  }
  [[nodiscard]] Slot acquire() {
    auto slot = acquire_or_fail();
    EXPECT_TRUE(slot.ok() && *slot) << (slot.ok() ? "nobody was told" : slot.error().message);
    return slot ? std::move(slot).value() : Slot{};
  }
  [[nodiscard]] std::vector<Slot> acquire(std::uint64_t slots) {
    std::vector<Slot> all;
    while (slots-- > 0) all.push_back(acquire());
    return all;
  }

  [[nodiscard]] bool is_told() {
    return eventually([this] { return wakes() > 0; });
  }
  [[nodiscard]] std::uint64_t wakes() {
    const std::lock_guard lock(mutex_);
    return wakes_;
  }
  [[nodiscard]] SlotUser& user() { return *user_; }
  void leave() { user_.reset(); }

 private:
  std::mutex mutex_;
  std::condition_variable woken_;
  std::uint64_t wakes_ = 0;
  std::unique_ptr<SlotUser> user_;  // goes first: it waits for calls under way
};

class SlotPoolTest : public ::testing::Test {
 protected:
  std::shared_ptr<FakePinner> pinner_ = std::make_shared<FakePinner>();
  // Idle for so long that nothing is let go unless a test asks for it.
  std::shared_ptr<SlotPool> pool_ = SlotPool::create({.idle_time = std::chrono::hours(1)});
};

}  // namespace weightstream::testing
