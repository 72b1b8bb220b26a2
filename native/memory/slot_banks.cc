#include "memory/slot_banks.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace weightstream {

SlotStep::SlotStep(StagingMemory its_memory, SlotBank& its_bank, std::uint64_t slots, std::uint64_t slot_bytes)
    : memory(std::move(its_memory)), bank(its_bank), cells(slots), idle_since(std::chrono::steady_clock::now()) {
  free.reserve(slots);
  for (auto slot = slots; slot-- > 0;) {
    cells[slot].memory = memory.begin() + slot * slot_bytes;
    cells[slot].step = this;
    free.push_back(&cells[slot]);
  }
}

void SlotBank::try_to_pin_again() {
  // While it grows, by memory that is not pinned, it has some soon.
  if (steps.empty() && !grows) not_pinned.reset();
}

std::shared_ptr<SlotBank> SlotBanks::open(const std::string& device, const std::shared_ptr<Pinner>& pinner) {
  auto& bank = banks_[device];
  if (!bank) bank = std::make_shared<SlotBank>(pinner);
  return bank;
}

void SlotBanks::add(SlotAccount& account) {
  accounts_.push_back(&account);
  auto& bank = *account.bank;
  bank.refused.reset();  // what was refused to another may be granted now
  bank.try_to_pin_again();
  if (bank.free == 0) bank.grows_ahead = true;
}

void SlotBanks::remove(SlotAccount& account) {
  stop_waiting(account);
  std::erase(accounts_, &account);
}

SlotBanks::Banks SlotBanks::drop_empty() {
  Banks empty;
  for (auto at = banks_.begin(); at != banks_.end();) {
    auto& bank = at->second;
    const bool used = std::any_of(accounts_.begin(), accounts_.end(), [&](auto* of) { return of->bank == bank; });
    if (used || bank->grows || !bank->steps.empty()) {
      ++at;
      continue;
    }
    empty.push_back(std::move(bank));
    at = banks_.erase(at);
  }
  return empty;
}

SlotCell* SlotBanks::take(SlotAccount& account) {
  auto& bank = *account.bank;
  if (account.held == account.most || bank.free == 0 || in_use_ >= most()) return nullptr;
  const auto claim = find_claim();
  const auto* spared = comes_before(account, claim.poor) ? nullptr : claim.step;
  // From the front: what is not needed gathers in the last steps, which can then go.
  const auto step = std::find_if(bank.steps.begin(), bank.steps.end(),
                                 [&](const auto& each) { return each.get() != spared && !each->free.empty(); });
  if (step == bank.steps.end()) return nullptr;
  SlotCell* cell = (*step)->free.back();
  (*step)->free.pop_back();
  cell->account = account.shared_from_this();
  account.peak = std::max<std::uint64_t>(account.peak, ++account.held);
  ++in_use_;
  bank.grows_ahead = --bank.free == 0;
  return cell;
}

void SlotBanks::wait(SlotAccount& account) {
  if (std::find(waiting_.begin(), waiting_.end(), &account) == waiting_.end()) waiting_.push_back(&account);
}

void SlotBanks::stop_waiting(SlotAccount& account) {
  std::erase(waiting_, &account);
  auto* granted = std::exchange(account.granted, nullptr);
  if (!granted) return;
  give_back(*granted);
  granted->account.reset();  // the caller has the account
}

void SlotBanks::give_back(SlotCell& cell) {
  auto& step = *cell.step;
  step.free.push_back(&cell);
  ++step.bank.free;
  if (step.idle()) step.idle_since = Clock::now();
  const auto& account = cell.account;
  --account->held;
  --in_use_;
}

std::vector<SlotAccount*> SlotBanks::grant() {
  std::vector<SlotAccount*> told;
  for (auto at = waiting_.begin(); at != waiting_.end();) {
    SlotAccount& account = **at;
    account.granted = take(account);
    const bool fails = account.bank->refused && account.bank->steps.empty();
    if (!account.granted && !fails) {
      ++at;
      continue;
    }
    ++account.waking;
    told.push_back(&account);
    at = waiting_.erase(at);
  }
  return told;
}

std::uint64_t SlotBanks::most() const {
  std::uint64_t most = 0;
  for (const auto* account : accounts_) most = std::max(most, account->most);
  return most;
}

std::uint64_t SlotBanks::most(const SlotBank& bank) const {
  std::uint64_t most = 0;
  for (const auto* account : accounts_) {
    if (account->bank.get() == &bank) most = std::max(most, account->most);
  }
  return most;
}

std::uint64_t SlotBanks::room(const SlotBank& bank) const {
  const auto of_all = most();
  const auto of_bank = most(bank);
  return std::min(of_all - std::min(of_all, committed_), of_bank - std::min(of_bank, bank.slots));
}

// Whether it waits for a slot that the bank does not have.
bool SlotBanks::in_need(const SlotAccount& account) const {
  const auto& bank = *account.bank;
  return account.held < account.most && bank.free == 0 && !bank.refused;
}

SlotBank* SlotBanks::growing() const {
  SlotBank* next = nullptr;
  // The poorest first: a bank that made room for it must not take that back.
  const auto consider = [&](SlotBank& bank) {
    if (!bank.grows && room(bank) > 0 && (!next || bank.slots < next->slots)) next = &bank;
  };
  for (const auto* account : waiting_) {
    if (in_need(*account)) consider(*account->bank);
  }
  if (next) return next;
  for (const auto& [device, bank] : banks_) {
    if (bank->grows_ahead && bank->free == 0 && !bank->refused) consider(*bank);
  }
  return next;
}

std::uint64_t SlotBanks::begin_growth(SlotBank& bank) {
  const auto slots = std::min(std::clamp(bank.slots, kFirstStep, kLargestStep), room(bank));
  committed_ += slots;
  bank.grows = true;
  bank.grows_ahead = false;
  return slots;
}

void SlotBanks::end_growth(SlotBank& bank, std::uint64_t slots, Result<std::unique_ptr<SlotStep>> step, bool unpinned) {
  bank.grows = false;
  if (!step) {
    committed_ -= slots;
    if (unpinned && bank.steps.empty() && !bank.not_pinned) {
      bank.not_pinned = std::move(step).error();
      bank.grows_ahead = true;
    } else {
      bank.refused = std::move(step).error();
    }
    return;
  }
  ((*step)->memory.is_pinned() ? pinned_ : pageable_) += slots;
  peak_pinned_ = std::max(peak_pinned_, pinned_);
  bank.slots += slots;
  bank.free += slots;
  bank.steps.push_back(std::move(step).value());
}

void SlotBanks::refuse_growth(const Error& error) {
  while (auto* bank = growing()) bank->refused = error;
}

std::uint64_t SlotBanks::share() const {
  std::uint64_t in_use = 0;
  for (const auto& [device, bank] : banks_) in_use += most(*bank) > 0 ? 1 : 0;
  return most() / std::max<std::uint64_t>(1, in_use);
}

bool SlotBanks::comes_before(const SlotAccount& account, const SlotAccount* other) const {
  const auto first = std::find_if(waiting_.begin(), waiting_.end(),
                                  [&](const auto* each) { return each == &account || each == other; });
  return first != waiting_.end() && *first == &account;
}

SlotBanks::Claim SlotBanks::find_claim() const {
  if (committed_ < most() || leaving_ > 0) return {};  // there is room, or will be
  const auto poor = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto* account) {
    const auto& bank = *account->bank;
    // Where there is not a slot for each device, they take turns.
    const auto due = std::min(std::max<std::uint64_t>(1, share()), most(bank));
    return in_need(*account) && !bank.grows && bank.slots < due;
  });
  if (poor == waiting_.end()) return {};
  const auto has = (*poor)->bank->slots;
  const SlotStep* best = nullptr;
  // What is nearly idle is there soonest; what is taken from the largest hurts least.
  const auto worth = [&](const SlotStep& step) {
    return std::make_tuple(most(step.bank) == 0, -static_cast<std::int64_t>(step.in_use()), step.bank.slots);
  };
  for (const auto& [device, bank] : banks_) {
    if (bank == (*poor)->bank) continue;
    for (const auto& step : bank->steps) {
      // Of a device in use only what leaves it at least as much as the other then has: nothing goes to and fro. But
      // one that has nothing at all gets something.
      if (has > 0 && most(*bank) > 0 && bank->slots < has + 2 * step->size()) continue;
      if (!best || worth(*step) >= worth(*best)) best = step.get();  // of equals the last: see take()
    }
  }
  return {.poor = *poor, .step = best};
}

bool SlotBanks::too_much() const {
  const auto limit = most();
  return limit > 0 && committed_ - leaving_ > limit;
}

SlotBanks::Steps SlotBanks::take_idle(Clock::time_point idle_since) {
  Steps taken;
  const auto* wanted = find_claim().step;
  for (const auto& [device, bank] : banks_) {
    auto& steps = bank->steps;
    for (auto at = steps.size(); at-- > 0;) {
      auto& step = *steps[at];
      if (!step.idle() || (step.idle_since > idle_since && &step != wanted && !too_much())) continue;
      bank->slots -= step.size();
      bank->free -= step.size();
      bank->grows_ahead = false;
      bank->refused.reset();  // with that memory back, it may be granted again
      leaving_ += step.size();
      taken.push_back(std::move(steps[at]));
      steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(at));
      bank->try_to_pin_again();
    }
  }
  return taken;
}

void SlotBanks::let_go(std::uint64_t slots, std::uint64_t pinned_slots) {
  committed_ -= slots;
  leaving_ -= slots;
  pinned_ -= pinned_slots;
  pageable_ -= slots - pinned_slots;
}

SlotBanks::Clock::time_point SlotBanks::next_due(Clock::duration idle_time) const {
  auto due = Clock::time_point::max();
  const auto* wanted = find_claim().step;
  const bool at_once = too_much();
  for (const auto& [device, bank] : banks_) {
    for (const auto& step : bank->steps) {
      if (!step->idle()) continue;
      if (at_once || step.get() == wanted) return Clock::time_point::min();
      due = std::min(due, step->idle_since + idle_time);
    }
  }
  return due;
}

}  // namespace weightstream
