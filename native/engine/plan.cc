#include "engine/plan.h"

#include <algorithm>
#include <utility>

#include "base/checked.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kBlockBytes = 4096;

std::vector<Plan::Extent> make_extents(const std::vector<PlanItem>& items, const PlanOptions& options) {
  std::vector<Plan::Extent> extents;
  for (const auto& item : items) {
    if (item.range.empty()) continue;
    const ByteRange rounded{align_down(item.range.begin, kBlockBytes), align_up(item.range.end, kBlockBytes)};
    if (!extents.empty() && extents.back().source == item.source &&
        rounded.begin <= extents.back().range.end + options.gap_of(item.source)) {
      extents.back().range.end = std::max(extents.back().range.end, rounded.end);
    } else {
      extents.push_back({item.source, rounded});
    }
  }
  return extents;
}

// The size of the next read when `left` bytes of the whole plan are still to be cut.
std::uint64_t next_read_bytes(std::uint64_t left, const PlanOptions& options) {
  const std::uint64_t share = left / std::max<std::uint32_t>(options.tail_reads, 1);
  const std::uint64_t least = std::min(options.least_read_bytes, options.read_bytes);
  return align_up(std::clamp(share, least, options.read_bytes), least);
}

}  // namespace

std::uint64_t Plan::span(std::size_t i) const {
  if (item_reads[i].empty()) return 0;
  // Reads of one item are neighbours in one extent.
  return reads[item_reads[i].end - 1].range.end - reads[item_reads[i].begin].range.begin;
}

Plan make_plan(std::vector<PlanItem> items, const PlanOptions& options) {
  Plan plan;
  plan.items = std::move(items);
  plan.reads_left.assign(plan.items.size(), 0);
  plan.item_reads.assign(plan.items.size(), {});
  plan.extents = make_extents(plan.items, options);

  std::uint64_t left = 0;
  for (const auto& extent : plan.extents) left += extent.range.size();

  std::uint32_t item = 0;  // the first that may still overlap what comes
  const auto ends_before = [&](std::uint32_t i, const Plan::Extent& extent, std::uint64_t offset) {
    const auto& candidate = plan.items[i];
    return candidate.source < extent.source || (candidate.source == extent.source && candidate.range.end <= offset);
  };
  for (const auto& extent : plan.extents) {
    for (std::uint64_t begin = extent.range.begin; begin < extent.range.end;) {
      const std::uint64_t bytes = next_read_bytes(left, options);
      // Cut at multiples of the size, so that reads in full swing do not share a huge page.
      const std::uint64_t cut = align_down(begin, bytes & -bytes) + bytes;
      const std::uint64_t end = std::min(cut, extent.range.end);
      const auto index = plan.reads.size();

      while (item < plan.items.size() && ends_before(item, extent, begin)) ++item;
      PlanRead read{.source = extent.source, .first_item = item, .range = {begin, end}, .wasted = end - begin};
      for (auto i = item; i < plan.items.size(); ++i) {
        const auto& candidate = plan.items[i];
        if (candidate.source != extent.source || candidate.range.begin >= end) break;
        ++read.items;
        if (candidate.range.empty()) continue;
        read.wasted -= std::min(end, candidate.range.end) - std::max(begin, candidate.range.begin);
        if (plan.reads_left[i]++ == 0) plan.item_reads[i].begin = index;
        plan.item_reads[i].end = index + 1;
      }
      plan.reads.push_back(read);
      left -= end - begin;
      begin = end;
    }
  }
  return plan;
}

}  // namespace weightstream
