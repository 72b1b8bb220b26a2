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
      by_reader_(plan.reads.size(), false),
      slots_(plan.reads.size()) {}

Status DeviceLanding::open(const Lanes& lanes) {
  std::size_t by_reader = 0;
  for (std::size_t read = 0; read < plan_.reads.size(); ++read) {
    by_reader_[read] = lanes.of(plan_.reads[read].source).kind == ReaderKind::kGds;
    if (by_reader_[read]) ++by_reader;
  }
  auto copies = DeviceCopies::start(target_.accelerator, owner_, by_reader > 0);
  if (!copies) return std::move(copies).error();
  copies_ = std::move(*copies);
  if (by_reader == plan_.reads.size()) return Ok{};  // nothing is pinned for what needs no slot
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
  if (by_reader_[read]) {
    bound_ = Bound::kDevice;
    return may_write(read);
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

// What is queued on a stream can wait on the device for kernels that still use the memory. A reader cannot: it may
// begin when they have ended.
bool DeviceLanding::may_write(std::uint32_t read) {
  const auto touched = groups_.of_read[read];
  bool may = true;
  for (auto i = touched.begin; i < touched.end; ++i) {
    const auto order = window_.place(i).order;
    if (i > touched.begin && order == window_.place(i - 1).order) continue;
    may = copies_->may_write(order, read) && may;
  }
  return may;
}

// Calls body(address, order, range of the source) for each part of a read that has a place.
template <typename Body>
void DeviceLanding::for_each_part(std::uint32_t read, Body body) const {
  const ByteRange& whole = plan_.reads[read].range;
  const auto touched = groups_.of_read[read];
  for (auto i = touched.begin; i < touched.end; ++i) {
    const DeviceWindow::Place& place = window_.place(i);
    for (const DeviceRun& run : groups_.runs_in(groups_.groups[i], whole)) {
      const ByteRange part{std::max(run.range.begin, whole.begin), std::min(run.range.end, whole.end)};
      body(place.address + run.at + (part.begin - run.range.begin), place.order, part);
    }
  }
}

std::byte* DeviceLanding::place(std::uint32_t read) {
  return by_reader_[read] ? nullptr : slots_[read].place(plan_.reads[read].range.begin);
}

std::vector<DevicePart> DeviceLanding::parts(std::uint32_t read) const {
  std::vector<DevicePart> parts;
  if (!by_reader_[read]) return parts;
  for_each_part(read, [&](std::uint64_t to, std::uint32_t /*order*/, ByteRange part) {
    parts.push_back({.offset = part.begin, .bytes = part.size(), .to = to});
  });
  return parts;
}

void DeviceLanding::arrived(std::uint32_t read) {
  if (by_reader_[read]) {
    owner_.landed(read);
    return;
  }
  const std::uint64_t begin = plan_.reads[read].range.begin;
  DeviceCopy copy{.read = read, .slot = std::move(slots_[read]), .pieces = {}};
  const std::byte* from = copy.slot.place(begin);
  for_each_part(read, [&](std::uint64_t to, std::uint32_t order, ByteRange part) {
    copy.pieces.push_back({.to = to, .from = from + (part.begin - begin), .bytes = part.size(), .order = order});
  });
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
