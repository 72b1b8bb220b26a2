#include "memory/slot_pool.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <new>

#include "base/core_thread.h"

namespace weightstream {
namespace {

using Clock = SlotBanks::Clock;

Error other_process() {
  return {.code = ErrorCode::kClosed,
          .message = "pinned memory was used in a forked process; start the stream after the fork, or use `spawn`"};
}

Result<std::unique_ptr<SlotStep>> make_step(SlotBank& bank, std::uint64_t slots, bool pinned) {
  try {
    const std::uint64_t bytes = slots * Slot::kBytes;
    auto memory = pinned ? StagingMemory::pinned(bank.pinner, bytes) : StagingMemory::pageable(*bank.pinner, bytes);
    if (!memory) return std::move(memory).error();
    return std::make_unique<SlotStep>(std::move(memory).value(), bank, slots, Slot::kBytes);
  } catch (const std::bad_alloc&) {
    return Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM};
  }
}

// Has no lock, which a fork could copy while it is held. Never torn down: at the end of a process the driver may be
// gone before its statics are, and takes all pins with it.
class Registry {
 public:
  constexpr Registry() = default;
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  std::shared_ptr<SlotPool> pool() {
    auto* found = now_.load(std::memory_order_acquire);
    while (!found || found->process != ::getpid()) {
      // What a child finds there is its parent's, and is left alone.
      auto fresh = std::make_unique<Entry>(Entry{::getpid(), SlotPool::create()});
      if (now_.compare_exchange_strong(found, fresh.get())) found = fresh.release();
    }
    return found->pool;
  }

 private:
  struct Entry {
    pid_t process;
    std::shared_ptr<SlotPool> pool;
  };
  std::atomic<Entry*> now_ = nullptr;
};

constinit Registry registry;

}  // namespace

bool Slot::pinned() const { return cell_->step->memory.is_pinned(); }

void Slot::reset() noexcept {
  SlotCell* cell = std::exchange(cell_, nullptr);
  // acq_rel: what all holders did to the memory comes before what its next user does.
  if (cell && cell->holders.fetch_sub(1, std::memory_order_acq_rel) == 1) SlotPool::give_back(*cell);
}

SlotUser::~SlotUser() { account_->pool->leave(*account_); }
std::optional<Error> SlotUser::not_pinned() const { return account_->pool->not_pinned(*account_); }
Result<Slot> SlotUser::try_acquire() { return account_->pool->acquire(*account_); }
void SlotUser::stop_waiting() { account_->pool->stop_waiting(*account_); }

std::shared_ptr<SlotPool> SlotPool::of_process() { return registry.pool(); }

std::shared_ptr<SlotPool> SlotPool::create(SlotPoolOptions options) {
  return {new SlotPool(options), [](SlotPool* pool) {
            // In a child the thread does not exist, and a lock may be held for ever.
            if (!pool->foreign()) delete pool;
          }};
}

SlotPool::SlotPool(SlotPoolOptions options)
    : process_(::getpid()), options_{std::max(options.idle_time, std::chrono::milliseconds(1))} {}

SlotPool::~SlotPool() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  work_.notify_all();
  if (thread_.joinable()) thread_.join();
}

bool SlotPool::foreign() const { return ::getpid() != process_; }

Result<std::unique_ptr<SlotUser>> SlotPool::join(const std::string& device, const std::shared_ptr<Pinner>& pinner,
                                                 std::uint64_t budget, std::function<void()> wake) {
  if (foreign()) return other_process();
  if (budget < Slot::kBytes) {
    return Error{.code = ErrorCode::kConfig,
                 .message = "a limit of " + std::to_string(budget) +
                            " bytes of pinned memory has no room for a read, " + "which takes " +
                            std::to_string(Slot::kBytes)};
  }
  auto account = std::make_shared<SlotAccount>();
  account->pool = shared_from_this();
  account->most = budget / Slot::kBytes;
  account->wake = std::move(wake);
  std::unique_ptr<SlotUser> user(new SlotUser(account));
  Aftermath aftermath;
  {
    const std::lock_guard lock(mutex_);
    account->bank = banks_.open(device, pinner);
    banks_.add(*account);
    aftermath = settle();
  }
  finish(std::move(aftermath));
  return user;
}

Result<Slot> SlotPool::acquire(SlotAccount& account) {
  if (foreign()) return other_process();
  Slot slot;
  Aftermath aftermath;
  {
    const std::lock_guard lock(mutex_);
    const auto& bank = *account.bank;
    SlotCell* cell = std::exchange(account.granted, nullptr);
    if (!cell) cell = banks_.take(account);
    if (!cell && bank.refused && bank.steps.empty()) return *bank.refused;
    if (cell) {
      slot = Slot(cell);
    } else {
      banks_.wait(account);
    }
    aftermath = settle();
  }
  finish(std::move(aftermath));
  return slot;
}

std::optional<Error> SlotPool::not_pinned(const SlotAccount& account) const {
  if (foreign()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  return account.bank->not_pinned;
}

void SlotPool::stop_waiting(SlotAccount& account) {
  if (foreign()) return;
  Aftermath aftermath;
  {
    const std::lock_guard lock(mutex_);
    banks_.stop_waiting(account);
    aftermath = settle();
  }
  finish(std::move(aftermath));
}

void SlotPool::leave(SlotAccount& account) {
  if (foreign()) return;
  Aftermath aftermath;
  {
    const std::lock_guard lock(mutex_);
    banks_.remove(account);
    aftermath = settle();
  }
  finish(std::move(aftermath));
  std::unique_lock lock(mutex_);
  woken_.wait(lock, [&] { return account.waking == 0; });
}

void SlotPool::give_back(SlotCell& cell) {
  // Keeps the pool until the end of this: the slot may be the last that did.
  const auto account = cell.account;
  auto& pool = *account->pool;
  if (pool.foreign()) return;
  Aftermath aftermath;
  {
    const std::lock_guard lock(pool.mutex_);
    pool.banks_.give_back(cell);
    cell.account.reset();
    aftermath = pool.settle();
  }
  pool.finish(std::move(aftermath));
}

void SlotPool::release_idle() {
  if (foreign()) return;
  Aftermath aftermath;
  {
    std::unique_lock lock(mutex_);
    let_go(lock, banks_.take_idle(Clock::time_point::max()));
    aftermath = settle();
  }
  finish(std::move(aftermath));
}

SlotPoolStats SlotPool::stats() const {
  if (foreign()) return {};
  const std::lock_guard lock(mutex_);
  return {.pinned_bytes = banks_.pinned() * Slot::kBytes,
          .peak_pinned_bytes = banks_.peak_pinned() * Slot::kBytes,
          .pageable_bytes = banks_.pageable() * Slot::kBytes,
          .slots_in_use = banks_.in_use(),
          .growth_seconds = growth_seconds_,
          .refused = refused_};
}

SlotPool::Aftermath SlotPool::settle() {
  Aftermath aftermath{.woken = banks_.grant(), .gone = {}};
  see_to_thread();
  // Those who wait where even the thread was refused.
  for (auto* account : banks_.grant()) aftermath.woken.push_back(account);
  aftermath.gone = banks_.drop_empty();
  return aftermath;
}

void SlotPool::see_to_thread() {
  const bool grows = banks_.growing() != nullptr;
  const bool works = grows || banks_.committed() == 0 || banks_.next_due(options_.idle_time) <= Clock::now();
  if (runs_) {
    if (works) work_.notify_all();
    return;
  }
  if (!grows) return;  // nothing is pinned either, or the thread would be there
  if (thread_.joinable()) thread_.join();  // it has let go of the lock for the last time
  if (auto started = start_core_thread(thread_, "ws-slots", [this] { run(); }); !started) {
    refused_ = started.error();
    banks_.refuse_growth(started.error());
    return;
  }
  runs_ = true;
}

void SlotPool::finish(Aftermath aftermath) {
  for (auto* account : aftermath.woken) {
    account->wake();
    {
      // Its user waits for this in its destructor. Nothing is touched after that.
      const std::lock_guard lock(mutex_);
      --account->waking;
      woken_.notify_all();
    }
  }
}

void SlotPool::run() {
  std::unique_lock lock(mutex_);
  while (!ends_) {
    if (auto idle = banks_.take_idle(Clock::now() - options_.idle_time); !idle.empty()) {
      let_go(lock, std::move(idle));
      auto aftermath = settle();
      lock.unlock();
      finish(std::move(aftermath));
      lock.lock();
    } else if (auto* bank = banks_.growing()) {
      grow(lock, *bank);
    } else if (banks_.committed() == 0) {
      break;
    } else {
      // A step that gets idle meanwhile is not due before the end of this.
      work_.wait_until(lock, std::min(banks_.next_due(options_.idle_time), Clock::now() + options_.idle_time));
    }
  }
  runs_ = false;
}

void SlotPool::grow(std::unique_lock<std::mutex>& lock, SlotBank& bank) {
  const auto slots = banks_.begin_growth(bank);
  const bool pinned = !bank.not_pinned;
  lock.unlock();
  const auto start = Clock::now();
  auto step = make_step(bank, slots, pinned);  // a bank that grows is not dropped
  const bool unpinned = pinned && !step && step.error().code == ErrorCode::kDevice && bank.pinner->usable();
  const std::chrono::duration<double> took = Clock::now() - start;
  lock.lock();
  growth_seconds_ += took.count();
  if (!step) refused_ = step.error();
  banks_.end_growth(bank, slots, std::move(step), unpinned);
  auto aftermath = settle();
  lock.unlock();
  finish(std::move(aftermath));
  lock.lock();
}

void SlotPool::let_go(std::unique_lock<std::mutex>& lock, SlotBanks::Steps steps) {
  std::uint64_t slots = 0;
  std::uint64_t pinned = 0;
  for (const auto& step : steps) {
    slots += step->size();
    if (step->memory.is_pinned()) pinned += step->size();
  }
  lock.unlock();
  steps.clear();  // unpins
  lock.lock();
  banks_.let_go(slots, pinned);
}

}  // namespace weightstream
