// Reads land in pinned slots and are copied to the device from there; a read has landed when its copies have ended.
// Those of a reader that writes to the device itself (gds) take no slot, and have landed when they arrive.
//
// A read is admitted when all of its bytes have a place on the device, and a slot is free; without a slot, when that
// place is not in use any more. So a slot never waits for the consumer: a stream that nobody takes anything from holds
// none, and streams that share the pool cannot stop each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "device/copy_stream.h"
#include "engine/device_copies.h"
#include "engine/device_groups.h"
#include "engine/device_target.h"
#include "engine/device_window.h"
#include "engine/landing.h"
#include "engine/plan.h"
#include "engine/ready_items.h"
#include "memory/slot_pool.h"
#include "storage/reader.h"

namespace weightstream {

class DeviceLanding final : public Landing {
 public:
  // All but the target outlive it. `memory_limit`: bytes of slots.
  DeviceLanding(Owner& owner, const Plan& plan, const ReadyItems& ready, DeviceTarget target,
                std::uint64_t memory_limit, LogSink& log);

  Status open(const Lanes& lanes) override;
  Result<bool> try_admit(std::uint32_t read) override;
  [[nodiscard]] bool may_admit(std::uint32_t read) const override { return window_.covers(read); }
  [[nodiscard]] Bound bound() const override { return bound_; }
  void turn_down() override {
    if (user_) user_->stop_waiting();
  }
  bool settle(std::uint32_t /*read*/) override { return false; }  // the pool tells when a slot is free
  Lease hand_out(std::uint32_t item) override;
  [[nodiscard]] std::uint64_t peak_host_bytes() const override { return peak_slots_ * Slot::kBytes; }
  std::byte* place(std::uint32_t read) override;
  [[nodiscard]] std::vector<DevicePart> parts(std::uint32_t read) const override;
  void arrived(std::uint32_t read) override;
  void give_up(std::uint32_t read) override { slots_[read].reset(); }
  void close(const std::vector<std::uint32_t>& unread, const ReadyItems& ready,
             std::shared_ptr<void> destinations) override;

  [[nodiscard]] const DeviceGroups& groups() const { return groups_; }
  // Under the owner's lock.
  [[nodiscard]] DeviceWindow& window() { return window_; }
  [[nodiscard]] const DeviceWindow& window() const { return window_; }
  // Under the owner's lock: why slots are not pinned; empty when they are.
  [[nodiscard]] const std::string& not_pinned() const { return not_pinned_; }
  [[nodiscard]] const std::string& device() const { return target_.accelerator->label(); }
  // See DeviceCopies::after().
  Result<std::uint32_t> after(ForeignStream stream) { return copies_->after(stream); }

 private:
  template <typename Body>
  void for_each_part(std::uint32_t read, Body body) const;
  bool may_write(std::uint32_t read);
  void say_not_pinned();

  Owner& owner_;
  LogSink& log_;
  const Plan& plan_;
  const DeviceTarget target_;
  const std::uint64_t memory_limit_;
  const DeviceGroups groups_;
  DeviceWindow window_;
  std::vector<bool> by_reader_;  // per read: whether its reader writes to the device
  std::vector<Slot> slots_;      // per read: from its admission until it arrives
  std::uint64_t peak_slots_ = 0;
  std::string not_pinned_;
  Bound bound_ = Bound::kConsumer;
  std::unique_ptr<DeviceCopies> copies_;
  std::unique_ptr<SlotUser> user_;  // null: no read needs a slot; goes before the copies that it wakes
};

}  // namespace weightstream
