#include "engine/device_orders.h"

namespace weightstream {

Result<std::uint32_t> DeviceOrders::add(ForeignStream stream) {
  auto event = DeviceEvent::create(accelerator_);
  if (!event) return std::move(event).error();
  if (auto recorded = event->record(stream); !recorded) return std::move(recorded).error();
  const std::lock_guard lock(mutex_);
  orders_.push_back({.event = std::make_shared<const DeviceEvent>(std::move(*event))});
  return static_cast<std::uint32_t>(orders_.size() - 1);
}

Status DeviceOrders::wait_on_device(std::uint32_t order, CopyStream& copies) {
  std::shared_ptr<const DeviceEvent> event;  // dropped after the lock, too: destroying it asks the driver
  {
    const std::lock_guard lock(mutex_);
    Order& waited = orders_[order];
    if (std::exchange(waited.waited, true)) return Ok{};
    event = waited.event;
    if (!looked_for_) waited.event.reset();
  }
  return event ? copies.wait_for(*event) : Ok{};
}

bool DeviceOrders::reached(std::uint32_t order, std::uint32_t read) {
  const std::lock_guard lock(mutex_);
  Order& asked = orders_[order];
  if (!asked.event) return true;
  if (!std::exchange(asked.wanted, true)) wanted_.push_back({order, read});
  return false;
}

Result<bool> DeviceOrders::reached_now(std::uint32_t order) {
  std::shared_ptr<const DeviceEvent> event;  // dropped after the lock
  {
    const std::lock_guard lock(mutex_);
    event = orders_[order].event;
  }
  if (!event) return true;
  auto reached = event->reached();
  if (!reached || !*reached) return reached;
  const std::lock_guard lock(mutex_);
  orders_[order].event.reset();
  return true;
}

bool DeviceOrders::wanted() const {
  const std::lock_guard lock(mutex_);
  return !wanted_.empty();
}

DeviceOrders::Look DeviceOrders::look() {
  std::vector<Wanted> wanted;
  {
    const std::lock_guard lock(mutex_);
    wanted.swap(wanted_);
  }
  Look look;
  std::vector<Wanted> left;
  for (const Wanted& one : wanted) {
    std::shared_ptr<const DeviceEvent> event;
    {
      const std::lock_guard lock(mutex_);
      event = orders_[one.order].event;
    }
    if (!event) {  // reached_now() saw it
      look.any = true;
      continue;
    }
    auto reached = event->reached();
    if (!reached) {
      look.failure = {one.read, std::move(reached).error()};
      return look;
    }
    if (!*reached) {
      left.push_back(one);
      continue;
    }
    look.any = true;
    const std::lock_guard lock(mutex_);
    orders_[one.order].event.reset();
  }
  const std::lock_guard lock(mutex_);
  wanted_.insert(wanted_.end(), left.begin(), left.end());
  return look;
}

}  // namespace weightstream
