#include "engine/device_groups.h"

#include <algorithm>
#include <optional>

#include "base/checked.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kMostPackedItem = 64 << 10;
constexpr std::uint64_t kMostPackedGroup = 1 << 20;
// Kernels load up to 16 bytes at a time where there are many, and take a slower way, or none, from elsewhere.
constexpr std::uint64_t kVectorBytes = 16;
constexpr std::uint64_t kFewBytes = 512;

// Where an item comes to lie in the last group.
struct Spot {
  std::uint64_t at;
  bool in_last_run;
};

// Nowhere, if it belongs to another group.
std::optional<Spot> find_spot(const DeviceGroups& made, const PlanItem& item) {
  const DeviceGroup& group = made.groups.back();
  if (item.source != group.source || item.range.size() > kMostPackedItem) return std::nullopt;
  const std::uint64_t alignment = item.range.size() < kFewBytes ? item.alignment : kVectorBytes;
  const bool adjoins = item.range.begin == made.runs.back().range.end;
  const bool in_last_run = adjoins && group.bytes % alignment == 0;
  const std::uint64_t at = in_last_run ? group.bytes : align_up(group.bytes, kVectorBytes);
  if (at + item.range.size() > kMostPackedGroup) return std::nullopt;
  return Spot{at, in_last_run};
}

}  // namespace

DeviceGroups make_device_groups(const Plan& plan, bool packed) {
  DeviceGroups made;
  made.of_item.assign(plan.items.size(), DeviceGroups::kNone);
  made.at.assign(plan.items.size(), 0);
  bool open = false;  // whether the last group takes more items
  for (std::uint32_t i = 0; i < plan.items.size(); ++i) {
    const PlanItem& item = plan.items[i];
    if (item.range.empty()) continue;
    auto spot = open ? find_spot(made, item) : std::nullopt;
    if (!spot) {
      const auto first_run = static_cast<std::uint32_t>(made.runs.size());
      made.groups.push_back({.source = item.source, .first_item = i, .first_run = first_run});
      open = packed && item.range.size() <= kMostPackedItem;
      spot = Spot{0, false};
    }
    DeviceGroup& group = made.groups.back();
    if (spot->in_last_run) {
      made.runs.back().range.end = item.range.end;
    } else {
      made.runs.push_back({item.range, spot->at});
      ++group.runs;
    }
    ++group.items;
    group.bytes = spot->at + item.range.size();
    made.of_item[i] = static_cast<std::uint32_t>(made.groups.size() - 1);
    made.at[i] = static_cast<std::uint32_t>(spot->at);
  }

  made.of_read.reserve(plan.reads.size());
  for (const auto& read : plan.reads) {
    DeviceGroups::Span span{DeviceGroups::kNone, 0};
    for (auto i = read.first_item; i < read.first_item + read.items; ++i) {
      if (made.of_item[i] == DeviceGroups::kNone) continue;
      span.begin = std::min(span.begin, made.of_item[i]);
      span.end = made.of_item[i] + 1;
    }
    made.of_read.push_back(span.end == 0 ? DeviceGroups::Span{} : span);
  }
  return made;
}

std::span<const DeviceRun> DeviceGroups::runs_in(const DeviceGroup& group, const ByteRange& range) const {
  const std::span<const DeviceRun> all(runs.data() + group.first_run, group.runs);
  const auto begin =
      std::partition_point(all.begin(), all.end(), [&](const DeviceRun& run) { return run.range.end <= range.begin; });
  const auto end =
      std::partition_point(begin, all.end(), [&](const DeviceRun& run) { return run.range.begin < range.end; });
  return {begin, end};
}

}  // namespace weightstream
