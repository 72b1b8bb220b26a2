#include "engine/admission.h"

#include <cstddef>
#include <utility>

namespace weightstream {
namespace {

// How far one lane's pull may run ahead of another lane, in reads.
constexpr std::size_t kMostAdmitted = 64;

}  // namespace

Result<std::optional<std::uint32_t>> Admission::next(Lane& lane) {
  while (lane.admitted.empty() && next_read_ < plan_.reads.size()) {
    Lane& owner = lanes_.of(plan_.reads[next_read_].source);
    if (owner.admitted.size() >= kMostAdmitted) break;  // the owner is slower: no use in running ahead of it
    auto admitted = landing_.try_admit(next_read_);
    if (!admitted) return std::move(admitted).error();
    if (!*admitted) {
      lane.starved = true;
      out_of_room_ = true;
      return std::optional<std::uint32_t>{};
    }
    owner.admitted.push_back(next_read_++);
    if (&owner != &lane) owner.wake_if_starved();
  }
  if (lane.admitted.empty()) {
    lane.starved = true;
    return std::optional<std::uint32_t>{};
  }
  const auto read = lane.admitted.front();
  lane.admitted.pop_front();
  if (lane.admitted.size() + 1 == kMostAdmitted) wake_starved();
  return std::optional(read);
}

void Admission::wake_starved() {
  if (next_read_ == plan_.reads.size()) return;
  // Waking a lane that would find no room again costs more than it brings.
  if (!landing_.may_admit(next_read_)) return;
  for (const auto& lane : lanes_.all()) lane->wake_if_starved();
}

void Admission::offer_room() {
  out_of_room_ = false;
  if (next_read_ < plan_.reads.size() && landing_.may_admit(next_read_)) {
    wake_starved();
  } else {
    landing_.turn_down();
  }
}

std::vector<std::uint32_t> Admission::take_admitted() {
  std::vector<std::uint32_t> admitted;
  for (const auto& lane : lanes_.all()) {
    admitted.insert(admitted.end(), lane->admitted.begin(), lane->admitted.end());
    lane->admitted.clear();
  }
  return admitted;
}

std::vector<std::uint32_t> Admission::take_rest() {
  auto rest = take_admitted();
  while (next_read_ < plan_.reads.size()) rest.push_back(next_read_++);
  return rest;
}

}  // namespace weightstream
