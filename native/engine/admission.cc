#include "engine/admission.h"

#include <cstddef>

namespace weightstream {
namespace {

// How far one lane's pull may run ahead of another lane, in reads.
constexpr std::size_t kMostAdmitted = 64;

}  // namespace

std::optional<std::uint32_t> Admission::next(Lane& lane) {
  while (lane.admitted.empty() && next_read_ < plan_.reads.size()) {
    const PlanRead& read = plan_.reads[next_read_];
    Lane& owner = lanes_.of(read.source);
    if (owner.admitted.size() >= kMostAdmitted) break;  // the owner is slower: no use in running ahead of it
    if (!budget_.try_take(read.range.size(), room_for_oldest())) {
      lane.starved = true;
      out_of_room_ = true;
      return std::nullopt;
    }
    owner.admitted.push_back(next_read_++);
    if (&owner != &lane) owner.wake_if_starved();
  }
  if (lane.admitted.empty()) {
    lane.starved = true;
    return std::nullopt;
  }
  const auto read = lane.admitted.front();
  lane.admitted.pop_front();
  if (lane.admitted.size() + 1 == kMostAdmitted) wake_starved();
  return read;
}

void Admission::wake_starved() {
  if (next_read_ == plan_.reads.size()) return;
  // Waking a lane that would find no room again costs more than it brings.
  if (!budget_.fits(plan_.reads[next_read_].range.size(), room_for_oldest())) return;
  for (const auto& lane : lanes_.all()) lane->wake_if_starved();
}

std::uint64_t Admission::room_for_oldest() const {
  const auto oldest = ready_.oldest_incomplete();
  return oldest < plan_.items.size() ? plan_.span(oldest) : 0;
}

}  // namespace weightstream
