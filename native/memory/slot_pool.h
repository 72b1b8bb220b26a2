// Pinned host memory that reads land in on their way to a device, in slots of one size.
//
// Pinning takes about 0.1 s per GB, so the memory belongs to the process, and every stream uses what is there. A thread
// of the pool pins more in steps while the first slots are in use already: the first step is small, the others follow
// as long as slots run out, up to the limit. It lets go what was idle for a while, and lives no longer than
// there is something to pin or to let go.
//
// The limit: each user has a budget and never holds more. All slots of the process together, over all devices, are
// never more than the largest budget of those who use the pool now. When a user with a larger one goes, no more than
// that are lent, and what is too much goes by steps as they become idle; a step (64 MiB at most) that always is in use
// stays. Without users, memory stays until it has been idle for long enough.
//
// Turns: who found no slot gets one in the order of asking. The slot is set aside before its user is told, so it
// cannot be lost to somebody quicker. A device that has less than its share of the limit, while somebody waits for it,
// gets steps of the others. Budgets may add up to more than there is: a user must be able to give slots back without
// getting more.
//
// Memory that cannot be pinned: if the first of a device's cannot, its slots are not pinned, and everything else stays
// as it is, the limits included. A pool that has some pinned memory makes do with that.
//
// In a forked child there is no pool: its memory is not mapped, nothing is locked, unpinned or freed, acquiring fails
// with kClosed. Handles may be dropped there. SlotPool::of_process() gives the child a pool of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "memory/pinner.h"
#include "memory/slot_banks.h"

namespace weightstream {

// A handle on one slot; copies share it, and the last one to go frees it. Thread-safe as a shared_ptr is. Keeps the
// pool and its memory, also when the user has gone.
// Dropping the last handle may call wake() of any user: hold no lock that a wake() takes.
class Slot {
 public:
  static constexpr std::uint64_t kPayloadBytes = std::uint64_t{8} << 20;
  static constexpr std::uint64_t kPageBytes = 4096;
  static constexpr std::uint64_t kBytes = kPayloadBytes + kPageBytes;

  Slot() = default;
  Slot(const Slot& other) noexcept : cell_(other.cell_) { hold(); }
  Slot(Slot&& other) noexcept : cell_(std::exchange(other.cell_, nullptr)) {}
  Slot& operator=(Slot other) noexcept {
    std::swap(cell_, other.cell_);
    return *this;
  }
  ~Slot() { reset(); }

  explicit operator bool() const { return cell_ != nullptr; }
  // kBytes, page aligned; pinned, unless the system refuses that.
  [[nodiscard]] std::byte* data() const { return cell_->memory; }
  [[nodiscard]] bool pinned() const;
  // Where byte `offset` of a file is put: congruent to it modulo 4096, with room for kPayloadBytes.
  [[nodiscard]] std::byte* place(std::uint64_t offset) const { return data() + offset % kPageBytes; }
  void reset() noexcept;

 private:
  friend class SlotPool;
  explicit Slot(SlotCell* cell) : cell_(cell) { hold(); }
  void hold() const noexcept {
    if (cell_) cell_->holders.fetch_add(1, std::memory_order_relaxed);
  }

  SlotCell* cell_ = nullptr;
};

// One stream's part in the pool. Thread-safe.
class SlotUser {
 public:
  // Gives up its turn, and waits for calls of its wake() to return: not from within any wake(), nor with a lock that
  // its own takes. Slots that are out stay valid.
  ~SlotUser();
  SlotUser(const SlotUser&) = delete;
  SlotUser& operator=(const SlotUser&) = delete;

  // A slot, or an empty handle when there is none now, or all of the budget is out. In that case wake() is called when
  // it is this user's turn; it then acquires until it finds nothing again. Never waits.
  // Fails when there can be no memory (the pinner's error where the device is lost; kStorage when the system refuses
  // memory or a thread) and there is no slot at all to wait for; kClosed in a forked child.
  [[nodiscard]] Result<Slot> try_acquire();
  // Gives up its turn: who was told and needs no slot any more must say so, since one is set aside.
  void stop_waiting();

  // Why slots are not pinned, if that was refused.
  [[nodiscard]] std::optional<Error> not_pinned() const;
  // Slots, at least 1.
  [[nodiscard]] std::uint64_t budget() const { return account_->most; }
  // The most slots that it had at a time, those set aside for it included.
  [[nodiscard]] std::uint64_t peak() const { return account_->peak; }

 private:
  friend class SlotPool;
  explicit SlotUser(std::shared_ptr<SlotAccount> account) : account_(std::move(account)) {}
  const std::shared_ptr<SlotAccount> account_;
};

struct SlotPoolOptions {
  std::chrono::milliseconds idle_time = std::chrono::seconds(30);  // after which memory is let go
};

struct SlotPoolStats {
  std::uint64_t pinned_bytes = 0;
  std::uint64_t peak_pinned_bytes = 0;
  std::uint64_t pageable_bytes = 0;  // of slots that could not be pinned
  std::uint64_t slots_in_use = 0;  // or set aside for somebody
  double growth_seconds = 0;  // spent in mapping and pinning
  std::optional<Error> refused = {};  // the last time that growth failed
};

class SlotPool : public std::enable_shared_from_this<SlotPool> {
 public:
  // The pool of this process. It goes when the process exits, and what is out by then stays pinned to the end.
  static std::shared_ptr<SlotPool> of_process();
  static std::shared_ptr<SlotPool> create(SlotPoolOptions options = {});

  // A new user of the slots of `device`. The pinner of the first one serves all of that device ("cuda:0"), until nobody
  // uses it and its memory is gone. `budget` in bytes; the first slots are pinned right away.
  // `wake` is called from any thread, also from several at once, with no lock of the pool; it must not throw.
  // Fails with kConfig when the budget has no room for one slot, kClosed in a forked child.
  Result<std::unique_ptr<SlotUser>> join(const std::string& device, const std::shared_ptr<Pinner>& pinner,
                                         std::uint64_t budget, std::function<void()> wake);

  // Unpins what is not in use, before it returns.
  void release_idle();

  [[nodiscard]] SlotPoolStats stats() const;

 private:
  friend class Slot;
  friend class SlotUser;
  // What is left to do without the lock.
  struct Aftermath {
    std::vector<SlotAccount*> woken;
    SlotBanks::Banks gone;
  };

  explicit SlotPool(SlotPoolOptions options);
  ~SlotPool();
  [[nodiscard]] bool foreign() const;
  Result<Slot> acquire(SlotAccount& account);
  [[nodiscard]] std::optional<Error> not_pinned(const SlotAccount& account) const;
  void stop_waiting(SlotAccount& account);
  void leave(SlotAccount& account);
  static void give_back(SlotCell& cell);

  // Under the lock, after every change.
  [[nodiscard]] Aftermath settle();
  void see_to_thread();
  void finish(Aftermath aftermath);
  void run();
  void grow(std::unique_lock<std::mutex>& lock, SlotBank& bank);
  void let_go(std::unique_lock<std::mutex>& lock, SlotBanks::Steps steps);

  const int process_;
  const SlotPoolOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable work_;  // for the thread
  std::condition_variable woken_;  // wake() has returned
  SlotBanks banks_;
  double growth_seconds_ = 0;
  std::optional<Error> refused_;
  bool ends_ = false;
  bool runs_ = false;  // the thread has not decided to end yet
  std::thread thread_;
};

}  // namespace weightstream
