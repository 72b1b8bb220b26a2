#include "engine/device_groups.h"

#include <algorithm>

namespace weightstream {
namespace {

constexpr std::uint64_t kMostPackedItem = 64 << 10;
constexpr std::uint64_t kMostPackedGroup = 1 << 20;
// Kernels load up to 16 bytes at a time where there are many, and take a slower way, or none, from elsewhere.
constexpr std::uint64_t kVectorBytes = 16;
constexpr std::uint64_t kFewBytes = 512;

bool joins(const DeviceGroup& group, const PlanItem& item) {
  if (item.source != group.source || item.range.begin != group.range.end) return false;
  if (item.range.size() > kMostPackedItem || item.range.end - group.range.begin > kMostPackedGroup) return false;
  const std::uint64_t alignment = item.range.size() < kFewBytes ? item.alignment : kVectorBytes;
  return (item.range.begin - group.range.begin) % alignment == 0;
}

}  // namespace

DeviceGroups make_device_groups(const Plan& plan, bool packed) {
  DeviceGroups made;
  made.of_item.assign(plan.items.size(), DeviceGroups::kNone);
  bool open = false;  // whether the last group takes more items
  for (std::uint32_t i = 0; i < plan.items.size(); ++i) {
    const PlanItem& item = plan.items[i];
    if (item.range.empty()) continue;
    if (open && joins(made.groups.back(), item)) {
      made.groups.back().range.end = item.range.end;
      ++made.groups.back().items;
    } else {
      made.groups.push_back({.source = item.source, .first_item = i, .items = 1, .range = item.range});
      open = packed && item.range.size() <= kMostPackedItem;
    }
    made.of_item[i] = static_cast<std::uint32_t>(made.groups.size() - 1);
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

}  // namespace weightstream
