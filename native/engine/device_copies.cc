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
// How long a close waits for copies that are under way. Those that take longer wait for a kernel of somebody.
constexpr auto kPatience = std::chrono::milliseconds(100);

}  // namespace

Result<std::unique_ptr<DeviceCopies>> DeviceCopies::start(std::shared_ptr<Accelerator> accelerator,
                                                          Landing::Owner& owner) {
  auto stream = CopyStream::create(accelerator);
  if (!stream) return std::move(stream).error();
  std::unique_ptr<DeviceCopies> copies(new DeviceCopies(std::move(accelerator), owner, std::move(*stream)));
  auto started = start_core_thread(copies->thread_, "ws-copy", [copies = copies.get()] { copies->run(); });
  if (!started) return std::move(started).error();
  return copies;
}

DeviceCopies::~DeviceCopies() {
  if (thread_.joinable()) stop(nullptr);
}

Result<std::uint32_t> DeviceCopies::after(ForeignStream stream) {
  auto event = DeviceEvent::create(accelerator_);
  if (!event) return std::move(event).error();
  if (auto recorded = event->record(stream); !recorded) return std::move(recorded).error();
  const std::lock_guard lock(mutex_);
  orders_.emplace_back(std::move(*event));
  return static_cast<std::uint32_t>(orders_.size() - 1);
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
    const auto called = [this] { return stops_ || woken_ || !added_.empty(); };
    if (under_way() || !waiting_.empty()) {
      changed_.wait_for(lock, pause, called);
    } else {
      changed_.wait(lock, called);
    }
    if (stops_) return;
    added.swap(added_);
    const bool woken = std::exchange(woken_, false);
    lock.unlock();
    for (auto& copy : added) waiting_.push_back(std::move(copy));
    added.clear();
    const bool progress = submit_all() || woken;
    const bool reaped = failed_ ? false : reap();
    if (failed_) drop_ended();
    if (woken) owner_.made_room();
    pause = progress || reaped ? kFirstLook : std::min(2 * pause, kLongestLook);
    lock.lock();
  }
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
  if (failed_ || copy.slot.pinned()) return true;
  if (under_way()) return false;
  for (const auto& piece : copy.pieces) {
    auto now = reached(piece.order);
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
    under_way_.push_back({std::move(copy), std::move(*event)});
    return;
  }
  const auto read = copy.read;
  unknown_.push_back(std::move(copy));
  fail(read, std::move(queued).error());
}

Status DeviceCopies::queue(const DeviceCopy& copy, DeviceEvent& event) {
  for (const auto& piece : copy.pieces) {
    if (auto waits = wait_on_device(piece.order); !waits) return waits;
    if (auto queued = stream_->copy(piece.to, piece.from, piece.bytes); !queued) return queued;
  }
  return stream_->record(event);
}

// What is queued from now on waits for `order`. Whoever waited once need not wait again.
Status DeviceCopies::wait_on_device(std::uint32_t order) {
  std::optional<DeviceEvent> event;
  {
    const std::lock_guard lock(mutex_);
    event.swap(orders_[order]);
  }
  return event ? stream_->wait_for(*event) : Ok{};
}

// Whether the device is at `order`. Nobody waits for it from then on.
Result<bool> DeviceCopies::reached(std::uint32_t order) {
  std::optional<DeviceEvent> event;
  {
    const std::lock_guard lock(mutex_);
    event.swap(orders_[order]);
  }
  if (!event) return true;
  auto reached = event->reached();
  if (reached && *reached) return true;
  const std::lock_guard lock(mutex_);
  event.swap(orders_[order]);
  return reached;
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
    spare_events_.push_back(std::move(under_way_.front().event));
    under_way_.pop_front();  // drops the slot
    owner_.landed(read);
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
