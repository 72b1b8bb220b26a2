#include "engine/device_window.h"

#include <algorithm>

namespace weightstream {

DeviceWindow::DeviceWindow(const Plan& plan, const DeviceGroups& groups, const ReadyItems& ready, std::uint64_t limit)
    : plan_(plan), groups_(groups), ready_(ready), limit_(limit), places_(groups.groups.size()) {
  left_.reserve(groups.groups.size());
  for (const auto& group : groups.groups) left_.push_back(group.items);
}

DeviceGroups::Span DeviceWindow::needed_by_oldest() const {
  const auto oldest = ready_.oldest_incomplete();
  if (oldest == plan_.items.size()) return {};
  // It has bytes: an item of none is complete from the beginning.
  const auto last_read = plan_.item_reads[oldest].end - 1;
  return {groups_.of_item[oldest], groups_.of_read[last_read].end};
}

DeviceGroups::Span DeviceWindow::due(std::uint64_t most_bytes) const {
  const auto needed = needed_by_oldest();
  std::uint64_t floor = 0;
  for (auto group = needed.begin; group < needed.end; ++group) floor += groups_.groups[group].bytes;
  const std::uint64_t limit = std::max(limit_, floor);

  DeviceGroups::Span due{provided_, provided_};
  std::uint64_t bytes = 0;
  while (due.end < groups_.groups.size()) {
    const std::uint64_t more = groups_.groups[due.end].bytes;
    if (used_ + bytes + more > limit) break;
    if (bytes > 0 && bytes + more > most_bytes) break;
    bytes += more;
    ++due.end;
  }
  return due;
}

void DeviceWindow::provide(std::uint64_t address, std::uint32_t order) {
  places_[provided_] = {address, order};
  used_ += groups_.groups[provided_].bytes;
  peak_ = std::max(peak_, used_);
  ++provided_;
}

void DeviceWindow::taken(std::uint32_t item) {
  const auto group = groups_.of_item[item];
  if (group == DeviceGroups::kNone) return;
  if (--left_[group] == 0) used_ -= groups_.groups[group].bytes;
}

}  // namespace weightstream
