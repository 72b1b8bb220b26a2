// The books of the slot pool: which slots there are, who has them, who waits, and which memory to pin or let go next.
//
// A bank has the slots of one device, in steps: memory that was pinned in one go, and is let go in one go. Where the
// very first step cannot be pinned, the bank makes do with memory that is not, until it has let go of all of it. Counts
// are in slots. Not thread-safe, and does nothing that takes time: the pool guards it with its lock, and pins and
// unpins outside of that.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "memory/pinner.h"
#include "memory/staging_memory.h"

namespace weightstream {

class SlotPool;
struct SlotAccount;
struct SlotBank;
struct SlotStep;

struct SlotCell {
  std::byte* memory = nullptr;
  SlotStep* step = nullptr;
  std::atomic<std::uint32_t> holders = 0;  // not under the pool's lock
  std::shared_ptr<SlotAccount> account;  // who has it; null while it is free
};

struct SlotStep {
  SlotStep(StagingMemory its_memory, SlotBank& its_bank, std::uint64_t slots, std::uint64_t slot_bytes);
  [[nodiscard]] std::uint64_t size() const { return cells.size(); }
  [[nodiscard]] std::uint64_t in_use() const { return cells.size() - free.size(); }
  [[nodiscard]] bool idle() const { return in_use() == 0; }

  StagingMemory memory;
  SlotBank& bank;
  std::vector<SlotCell> cells;
  std::vector<SlotCell*> free;  // the last one returned is used first: it is the warmest
  std::chrono::steady_clock::time_point idle_since;
};

struct SlotBank {
  explicit SlotBank(std::shared_ptr<Pinner> its_pinner) : pinner(std::move(its_pinner)) {}
  // If it has none of the memory that could not be.
  void try_to_pin_again();

  const std::shared_ptr<Pinner> pinner;
  std::vector<std::unique_ptr<SlotStep>> steps;
  std::uint64_t slots = 0;
  std::uint64_t free = 0;
  std::optional<Error> refused;  // why it stays as small as it is
  std::optional<Error> not_pinned;  // why its memory is not pinned
  bool grows = false;  // a step of it is being pinned
  bool grows_ahead = false;  // nobody waits yet, but the last free slot was taken
};

// One user. Outlives the user while slots of it are out.
struct SlotAccount : std::enable_shared_from_this<SlotAccount> {
  std::shared_ptr<SlotPool> pool;
  std::shared_ptr<SlotBank> bank;
  std::uint64_t most = 0;
  std::function<void()> wake;
  std::uint64_t held = 0;  // `granted` included
  std::atomic<std::uint64_t> peak = 0;  // of held
  SlotCell* granted = nullptr;  // set aside for it, because it was its turn
  std::uint32_t waking = 0;  // calls of wake() under way
};

class SlotBanks {
 public:
  using Clock = std::chrono::steady_clock;
  using Steps = std::vector<std::unique_ptr<SlotStep>>;
  using Banks = std::vector<std::shared_ptr<SlotBank>>;

  // At 0.1 s per GB the first step takes 2 ms. Doubling finds the limit soon, and no device waits long for its turn.
  static constexpr std::uint64_t kFirstStep = 2;
  static constexpr std::uint64_t kLargestStep = 8;

  // The bank of the device, made when there is none.
  std::shared_ptr<SlotBank> open(const std::string& device, const std::shared_ptr<Pinner>& pinner);
  void add(SlotAccount& account);
  // What was granted to it goes back.
  void remove(SlotAccount& account);
  // Takes out the banks that have neither users nor memory; their pinners go with them, outside the lock.
  [[nodiscard]] Banks drop_empty();

  // A slot for the account, or null: none is free, or all are out that it, or all users together, may have.
  SlotCell* take(SlotAccount& account);
  void wait(SlotAccount& account);
  void stop_waiting(SlotAccount& account);
  // Undoes take(). The caller drops the cell's account, outside the lock if that may be the last of it.
  void give_back(SlotCell& cell);
  // Sets free slots aside for those who wait, first come first served. Returns who is to be told, also of a refusal.
  [[nodiscard]] std::vector<SlotAccount*> grant();

  // The bank that a step should be pinned for now, or null.
  [[nodiscard]] SlotBank* growing() const;
  // The slots of that step; they count from now on.
  std::uint64_t begin_growth(SlotBank& bank);
  // `unpinned`: pinning it was refused, and memory that is not pinned would do.
  void end_growth(SlotBank& bank, std::uint64_t slots, Result<std::unique_ptr<SlotStep>> step, bool unpinned = false);
  void refuse_growth(const Error& error);

  // Takes out the idle steps that are idle since `idle_since`, have no room any more, or are wanted for another device.
  // They count as committed until let_go().
  [[nodiscard]] Steps take_idle(Clock::time_point idle_since);
  void let_go(std::uint64_t slots, std::uint64_t pinned_slots);
  // When take_idle() should be called again; Clock::time_point::max() when no step is idle.
  [[nodiscard]] Clock::time_point next_due(Clock::duration idle_time) const;

  // Slots that there are, that are being pinned, or are being unpinned.
  [[nodiscard]] std::uint64_t committed() const { return committed_; }
  [[nodiscard]] std::uint64_t pageable() const { return pageable_; }
  [[nodiscard]] std::uint64_t pinned() const { return pinned_; }
  [[nodiscard]] std::uint64_t peak_pinned() const { return peak_pinned_; }
  [[nodiscard]] std::uint64_t in_use() const { return in_use_; }

 private:
  [[nodiscard]] std::uint64_t most() const;
  [[nodiscard]] std::uint64_t most(const SlotBank& bank) const;
  // Slots that can be pinned for the bank.
  [[nodiscard]] std::uint64_t room(const SlotBank& bank) const;
  [[nodiscard]] bool in_need(const SlotAccount& account) const;
  [[nodiscard]] std::uint64_t share() const;
  // A step, idle or not, that should make room for a device that has less than its share. It lends nothing meanwhile,
  // but to those whose turn is before that of who waits for it.
  struct Claim {
    const SlotAccount* poor = nullptr;
    const SlotStep* step = nullptr;
  };
  [[nodiscard]] Claim find_claim() const;
  [[nodiscard]] bool comes_before(const SlotAccount& account, const SlotAccount* other) const;
  // More is pinned than those who are there may have: a user with a larger budget has gone.
  [[nodiscard]] bool too_much() const;

  std::map<std::string, std::shared_ptr<SlotBank>> banks_;
  std::vector<SlotAccount*> accounts_;
  std::deque<SlotAccount*> waiting_;  // in the order they came
  std::uint64_t committed_ = 0;
  std::uint64_t leaving_ = 0;  // of those: are being unpinned
  std::uint64_t pinned_ = 0;
  std::uint64_t pageable_ = 0;
  std::uint64_t peak_pinned_ = 0;
  std::uint64_t in_use_ = 0;
};

}  // namespace weightstream
