#include "engine/device_copies.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/core_thread.h"

namespace weightstream {
namespace {

// How often events are looked at while copies are under way: a copy of a slot takes 0.15 ms over the fastest links of
// today, and many are under way at a time.
constexpr auto kLookEvery = std::chrono::microseconds(100);
// A device that does not end its copies within this has a kernel of somebody running before them, or hangs.
constexpr auto kPatience = std::chrono::seconds(10);

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
  if (thread_.joinable()) static_cast<void>(stop());
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
  std::unique_lock lock(mutex_);
  for (bool alive = true; alive;) {
    const auto called = [this] { return stops_ || woken_ || !added_.empty(); };
    if (under_way_.empty()) {
      changed_.wait(lock, called);
    } else {
      changed_.wait_for(lock, kLookEvery, called);
    }
    if (stops_) return;
    added.swap(added_);
    const bool woken = std::exchange(woken_, false);
    lock.unlock();
    for (auto& copy : added) alive = alive && submit(std::move(copy));
    added.clear();
    alive = alive && reap();
    if (alive && woken) owner_.made_room();
    lock.lock();
  }
}

bool DeviceCopies::submit(DeviceCopy copy) {
  const auto read = copy.read;
  auto event = new_event();
  auto queued = event ? queue(copy, *event) : Status(event.error());
  if (queued) {
    under_way_.push_back({std::move(copy), std::move(*event)});
    return true;
  }
  unknown_.push_back(std::move(copy));
  owner_.failed(read, std::move(queued).error());
  return false;
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

bool DeviceCopies::reap() {
  while (!under_way_.empty()) {
    const auto read = under_way_.front().copy.read;
    auto reached = under_way_.front().event.reached();
    if (!reached) {
      owner_.failed(read, std::move(reached).error());
      return false;
    }
    if (!*reached) break;
    spare_events_.push_back(std::move(under_way_.front().event));
    under_way_.pop_front();  // drops the slot
    owner_.landed(read);
  }
  return true;
}

Result<DeviceEvent> DeviceCopies::new_event() {
  if (spare_events_.empty()) return DeviceEvent::create(accelerator_);
  DeviceEvent event = std::move(spare_events_.back());
  spare_events_.pop_back();
  return event;
}

bool DeviceCopies::stop() {
  {
    const std::lock_guard lock(mutex_);
    stops_ = true;
  }
  changed_.notify_one();
  thread_.join();
  const bool used = !under_way_.empty() || !unknown_.empty();
  auto idle = used ? stream_->wait_idle(kPatience) : Result<bool>(true);
  const bool over = idle ? *idle : accelerator_->lost();  // nothing runs on a lost device
  if (!over) {
    // Never freed: the device may read them yet.
    for (auto& copy : under_way_) static_cast<void>(new Slot(std::move(copy.copy.slot)));
    for (auto& copy : unknown_) static_cast<void>(new Slot(std::move(copy.slot)));
  }
  under_way_.clear();
  unknown_.clear();
  added_.clear();
  return over;
}

}  // namespace weightstream
