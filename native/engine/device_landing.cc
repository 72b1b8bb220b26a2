#include "engine/device_landing.h"

#include <algorithm>
#include <utility>

#include "device/pinning.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kDefaultDeviceLimit = std::uint64_t{2} << 30;
// More does not make it faster: a slot is free again when its copy has ended.
constexpr std::uint64_t kDefaultSlotBytes = std::uint64_t{1} << 30;

}  // namespace

DeviceLanding::DeviceLanding(Owner& owner, const Plan& plan, const ReadyItems& ready, DeviceTarget target,
                             std::uint64_t memory_limit, LogSink& log)
    : owner_(owner),
      log_(log),
      plan_(plan),
      target_(std::move(target)),
      memory_limit_(std::min(memory_limit, kDefaultSlotBytes)),
      groups_(make_device_groups(plan, target_.packed)),
      window_(plan, groups_, ready, target_.device_limit > 0 ? target_.device_limit : kDefaultDeviceLimit),
      slots_(plan.reads.size()) {}

Status DeviceLanding::open(const Lanes& /*lanes*/) {
  auto copies = DeviceCopies::start(target_.accelerator, owner_);
  if (!copies) return std::move(copies).error();
  copies_ = std::move(*copies);
  auto user = target_.slots->join(target_.accelerator->label(), std::make_shared<DevicePinner>(target_.accelerator),
                                  memory_limit_, [copies = copies_.get()] { copies->wake(); });
  if (!user) return std::move(user).error();
  user_ = std::move(*user);
  return Ok{};
}

Result<bool> DeviceLanding::try_admit(std::uint32_t read) {
  if (!window_.covers(read)) {
    bound_ = Bound::kConsumer;
    return false;
  }
  auto slot = user_->try_acquire();
  if (!slot) return std::move(slot).error();
  if (!*slot) {
    bound_ = Bound::kDevice;
    return false;
  }
  if (!slot->pinned() && not_pinned_.empty()) say_not_pinned();
  slots_[read] = std::move(*slot);
  peak_slots_ = user_->peak();
  return true;
}

void DeviceLanding::say_not_pinned() {
  const auto why = user_->not_pinned();
  not_pinned_ = "copies start from memory that is not pinned, which takes longer";
  if (why) not_pinned_ += ": " + why->message;
  log_.write(LogLevel::kWarning, not_pinned_);
}

std::byte* DeviceLanding::place(std::uint32_t read) { return slots_[read].place(plan_.reads[read].range.begin); }

void DeviceLanding::arrived(std::uint32_t read) {
  const PlanRead& plan = plan_.reads[read];
  DeviceCopy copy{.read = read, .slot = std::move(slots_[read]), .pieces = {}};
  const std::byte* from = copy.slot.place(plan.range.begin);
  const auto touched = groups_.of_read[read];
  for (auto i = touched.begin; i < touched.end; ++i) {
    const DeviceWindow::Place& place = window_.place(i);
    for (const DeviceRun& run : groups_.runs_in(groups_.groups[i], plan.range)) {
      const std::uint64_t begin = std::max(run.range.begin, plan.range.begin);
      const std::uint64_t end = std::min(run.range.end, plan.range.end);
      copy.pieces.push_back({.to = place.address + run.at + (begin - run.range.begin),
                             .from = from + (begin - plan.range.begin),
                             .bytes = end - begin,
                             .order = place.order});
    }
  }
  copies_->add(std::move(copy));
}

Lease DeviceLanding::hand_out(std::uint32_t item) {
  window_.taken(item);
  return {};
}

void DeviceLanding::close(const std::vector<std::uint32_t>& /*unread*/, const ReadyItems& /*ready*/,
                          std::shared_ptr<void> destinations) {
  if (copies_) copies_->stop(std::move(destinations));
  slots_.clear();  // of reads that failed, or that no reader took
  user_.reset();
  copies_.reset();
}

}  // namespace weightstream
