#include "engine/stream_arenas.h"

#include <utility>

namespace weightstream {

StreamArenas::StreamArenas(const Sources& sources, const Plan& plan, std::uint64_t kept_bytes)
    : sources_(sources), plan_(plan), pool_(std::make_shared<BlockPool>(kept_bytes)), arenas_(sources.size()) {}

Status StreamArenas::open(std::uint32_t source, ReaderKind kind) {
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

void StreamArenas::declare_holds() {
  for (const auto& extent : plan_.extents) arenas_[extent.source]->advise_huge(extent.range);
  for (const auto& item : plan_.items) {
    if (!item.range.empty()) arenas_[item.source]->hold(item.range);
  }
  for (const auto& read : plan_.reads) arenas_[read.source]->hold(read.range);
}

void StreamArenas::release(const PlanRead& read) const {
  if (arenas_[read.source]) arenas_[read.source]->release(read.range);
}

Lease StreamArenas::lease(const PlanItem& item) const {
  if (item.range.empty() || !arenas_[item.source]) return {};
  return arenas_[item.source]->lease(item.range);
}

}  // namespace weightstream
