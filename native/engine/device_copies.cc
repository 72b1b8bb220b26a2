#include "engine/device_copies.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "base/core_thread.h"
#include "engine/device_limbo.h"

namespace weightstream {
namespace {

// How often events are looked at while copies are under way: a copy of a slot takes 0.15 ms over the fastest links of
// today, and many are under way at a time. Less often while nothing ends.
constexpr auto kFirstLook = std::chrono::microseconds(100);
constexpr auto kLongestLook = std::chrono::microseconds(1000);
// Pieces that are queued at a time. Each may bring a wait and an event, and all of them together have to be less than
// what a stream holds. It takes the device longer to run so many than it takes the thread to come back.
constexpr std::size_t kMostQueued = 256;
// Those of one event: while the device runs some, others are queued.
constexpr std::size_t kMostInAPart = 64;
// How long a close waits for copies that are under way. Those that take longer wait for a kernel of somebody.
constexpr auto kPatience = std::chrono::milliseconds(100);

}  // namespace

Result<std::unique_ptr<DeviceCopies>> DeviceCopies::start(std::shared_ptr<Accelerator> accelerator,
                                                          Landing::Owner& owner, bool others_write) {
  auto stream = CopyStream::create(accelerator);
  if (!stream) return std::move(stream).error();
  std::unique_ptr<DeviceCopies> copies(
      new DeviceCopies(std::move(accelerator), owner, std::move(*stream), others_write));
  auto started = start_core_thread(copies->thread_, "ws-copy", [copies = copies.get()] { copies->run(); });
  if (!started) return std::move(started).error();
  return copies;
}

DeviceCopies::~DeviceCopies() {
  if (thread_.joinable()) stop(nullptr);
}

bool DeviceCopies::may_write(std::uint32_t order, std::uint32_t read) {
  if (orders_.reached(order, read)) return true;
  const std::lock_guard lock(mutex_);
  looks_ = true;
  changed_.notify_one();
  return false;
}

void DeviceCopies::add(DeviceCopy copy) {
  const std::lock_guard lock(mutex_);
  added_.push_back(std::move(copy));
  changed_.notify_one();
}

void DeviceCopies::wake() {
  const std::lock_guard lock(mutex_);
  woken_ = true;
  changed_.notify_one();
}

void DeviceCopies::run() {
  std::vector<DeviceCopy> added;
  auto pause = kFirstLook;
  std::unique_lock lock(mutex_);
  while (true) {
    const auto called = [this] { return stops_ || woken_ || looks_ || !added_.empty(); };
    if (under_way() || !waiting_.empty() || (!failed_ && orders_.wanted())) {
      changed_.wait_for(lock, pause, called);
    } else {
      changed_.wait(lock, called);
    }
    if (stops_) return;
    added.swap(added_);
    const bool woken = std::exchange(woken_, false);
    const bool looks = std::exchange(looks_, false);
    lock.unlock();
    for (auto& copy : added) wait_in_parts(std::move(copy));
    added.clear();
    const bool progress = submit_all() || woken || looks;
    const bool reaped = failed_ ? false : reap();
    const bool reached = failed_ ? false : look_for_orders();
    if (failed_) drop_ended();
    if (woken || reached) owner_.made_room();
    pause = progress || reaped || reached ? kFirstLook : std::min(2 * pause, kLongestLook);
    lock.lock();
  }
}

void DeviceCopies::wait_in_parts(DeviceCopy copy) {
  auto from = copy.pieces.begin();
  for (; copy.pieces.end() - from > static_cast<std::ptrdiff_t>(kMostInAPart); from += kMostInAPart) {
    waiting_.push_back({.read = copy.read, .slot = copy.slot, .pieces = {from, from + kMostInAPart}, .last = false});
  }
  copy.pieces.erase(copy.pieces.begin(), from);
  waiting_.push_back(std::move(copy));
}

void DeviceCopies::fail(std::uint32_t read, Error error) {
  failed_ = true;
  waiting_.clear();
  owner_.failed(read, std::move(error));
}

// After a failure: nothing lands any more, but slots go back.
void DeviceCopies::drop_ended() {
  const auto idle = stream_->idle();
  if (!accelerator_->lost() && !(idle && *idle)) return;
  under_way_.clear();
  unknown_.clear();
  queued_ = 0;
}

// Whether there was anything to submit.
bool DeviceCopies::submit_all() {
  bool any = false;
  while (!waiting_.empty() && may_submit(waiting_.front())) {
    DeviceCopy copy = std::move(waiting_.front());
    waiting_.pop_front();
    submit(std::move(copy));
    any = true;
  }
  return any;
}

bool DeviceCopies::may_submit(const DeviceCopy& copy) {
  if (failed_) return true;
  if (under_way() && queued_ + copy.pieces.size() > kMostQueued) return false;
  if (copy.slot.pinned()) return true;
  if (under_way()) return false;
  for (const auto& piece : copy.pieces) {
    auto now = orders_.reached_now(piece.order);
    if (!now) {
      fail(copy.read, std::move(now).error());
      return false;
    }
    if (!*now) return false;
  }
  return true;
}

void DeviceCopies::submit(DeviceCopy copy) {
  if (failed_) return;
  auto event = new_event();
  auto queued = event ? queue(copy, *event) : Status(event.error());
  if (queued) {
    queued_ += copy.pieces.size();
    under_way_.push_back({std::move(copy), std::move(*event)});
    return;
  }
  const auto read = copy.read;
  unknown_.push_back(std::move(copy));
  fail(read, std::move(queued).error());
}

Status DeviceCopies::queue(const DeviceCopy& copy, DeviceEvent& event) {
  for (const auto& piece : copy.pieces) {
    if (auto waits = orders_.wait_on_device(piece.order, *stream_); !waits) return waits;
    if (auto queued = stream_->copy(piece.to, piece.from, piece.bytes); !queued) return queued;
  }
  return stream_->record(event);
}

// Whether memory may be written to that somebody asked for.
bool DeviceCopies::look_for_orders() {
  auto look = orders_.look();
  if (look.failure) fail(look.failure->read, std::move(look.failure->error));
  return look.any;
}

// Whether anything has ended.
bool DeviceCopies::reap() {
  bool any = false;
  while (!under_way_.empty()) {
    const auto read = under_way_.front().copy.read;
    auto reached = under_way_.front().event.reached();
    if (!reached) {
      fail(read, std::move(reached).error());
      break;
    }
    if (!*reached) break;
    any = true;
    const bool last = under_way_.front().copy.last;
    queued_ -= under_way_.front().copy.pieces.size();
    spare_events_.push_back(std::move(under_way_.front().event));
    under_way_.pop_front();  // drops the slot
    if (last) owner_.landed(read);
  }
  return any;
}

Result<DeviceEvent> DeviceCopies::new_event() {
  if (spare_events_.empty()) return DeviceEvent::create(accelerator_);
  DeviceEvent event = std::move(spare_events_.back());
  spare_events_.pop_back();
  return event;
}

void DeviceCopies::stop(std::shared_ptr<void> destinations) {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  changed_.notify_one();
  thread_.join();
  added_.clear();
  waiting_.clear();
  if (!under_way()) return;
  CopiesInLimbo rest{.accelerator = accelerator_, .stream = std::move(stream_), .slots = {}, .destinations = {}};
  for (auto& copy : under_way_) rest.slots.push_back(std::move(copy.copy.slot));
  for (auto& copy : unknown_) rest.slots.push_back(std::move(copy.slot));
  under_way_.clear();
  unknown_.clear();
  const auto patience = std::chrono::steady_clock::now() + kPatience;
  while (!rest.over()) {
    if (std::chrono::steady_clock::now() > patience) {
      rest.destinations = std::move(destinations);
      leave_in_limbo(std::move(rest));
      return;
    }
    std::this_thread::sleep_for(kFirstLook);
  }
}

}  // namespace weightstream
