#include "engine/host_landing.h"

#include <utility>

#include "engine/stream_options.h"

namespace weightstream {

HostLanding::HostLanding(Owner& owner, const Sources& sources, const Plan& plan, const ReadyItems& ready,
                         std::uint64_t memory_limit)
    : owner_(owner),
      sources_(sources),
      plan_(plan),
      ready_(ready),
      budget_(memory_limit - kept_share(memory_limit)),
      pool_(std::make_shared<BlockPool>(kept_share(memory_limit))),
      arenas_(sources.size()) {}

Status HostLanding::open(const Lanes& lanes) {
  for (const auto& [source, reason] : lanes.reasons()) {
    if (auto opened = open(source, lanes.of(source).kind); !opened) {
      arenas_.assign(arenas_.size(), nullptr);  // nothing is held in them yet
      return opened;
    }
  }
  declare_holds();
  return Ok{};
}

Status HostLanding::open(std::uint32_t source, ReaderKind kind) {
  const Source& file = sources_.at(source);
  if (kind == ReaderKind::kMmap) {
    auto handle = sources_.local(source)->handle();
    if (!handle) return std::move(handle).error();
    auto arena = Arena::map_file((*handle)->buffered.get(), file.size());
    if (!arena) return std::move(arena).error().at(file.name());
    arenas_[source] = std::move(*arena);
  } else {
    auto arena = Arena::reserve(file.size(), pool_);
    if (!arena) return std::move(arena).error().at(file.name());
    arenas_[source] = std::move(*arena);
  }
  return Ok{};
}

// All that will be held, before the first read, so that a block outlives all who share it.
void HostLanding::declare_holds() {
  for (const auto& extent : plan_.extents) arenas_[extent.source]->advise_huge(extent.range);
  for (const auto& item : plan_.items) {
    if (!item.range.empty()) arenas_[item.source]->hold(item.range);
  }
  for (const auto& read : plan_.reads) arenas_[read.source]->hold(read.range);
}

Result<bool> HostLanding::try_admit(std::uint32_t read) {
  return budget_.try_take(plan_.reads[read].range.size(), room_for_oldest());
}

bool HostLanding::may_admit(std::uint32_t read) const {
  return budget_.fits(plan_.reads[read].range.size(), room_for_oldest());
}

std::uint64_t HostLanding::room_for_oldest() const {
  const auto oldest = ready_.oldest_incomplete();
  return oldest < plan_.items.size() ? plan_.span(oldest) : 0;
}

// Backs the memory of a read that is about to begin with blocks that are dead.
std::byte* HostLanding::place(std::uint32_t read) {
  const PlanRead& plan = plan_.reads[read];
  arenas_[plan.source]->recycle_into(plan.range);
  return arenas_[plan.source]->at(plan.range.begin);
}

// The hold of a read that failed stays until the arena goes: nobody knows whether a device still writes there.
void HostLanding::arrived(std::uint32_t read) {
  release(read);
  owner_.landed(read);
}

bool HostLanding::settle(std::uint32_t read) {
  const std::uint64_t wasted = plan_.reads[read].wasted;
  budget_.give_back(wasted);
  return wasted > 0;
}

Lease HostLanding::hand_out(std::uint32_t item) {
  budget_.give_back(plan_.items[item].range.size());
  return lease(item);
}

// What was never read or handed out will never be: its holds go, so that blocks it shares with items that live on can
// go when those do.
void HostLanding::close(const std::vector<std::uint32_t>& unread, const ReadyItems& ready,
                        std::shared_ptr<void> /*destinations*/) {
  pool_->close();  // from now on dead blocks go back to the system
  for (const auto read : unread) release(read);
  for (std::uint32_t item = 0; item < plan_.items.size(); ++item) {
    if (ready.taken(item)) continue;
    [[maybe_unused]] const Lease dropped = lease(item);
  }
  arenas_.assign(arenas_.size(), nullptr);  // they live on with the leases in them
}

void HostLanding::release(std::uint32_t read) const {
  const PlanRead& plan = plan_.reads[read];
  if (arenas_[plan.source]) arenas_[plan.source]->release(plan.range);
}

Lease HostLanding::lease(std::uint32_t item) const {
  const PlanItem& plan = plan_.items[item];
  if (plan.range.empty() || !arenas_[plan.source]) return {};
  return arenas_[plan.source]->lease(plan.range);
}

}  // namespace weightstream
