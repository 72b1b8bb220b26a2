// Device memory for what comes next: which groups of the plan have some, and which should get some now. The memory is
// allocated by a framework, from Python, so it is asked for and then provided. Not thread-safe: the stream guards it
// with its lock.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/device_groups.h"
#include "engine/plan.h"
#include "engine/ready_items.h"

namespace weightstream {

class DeviceWindow {
 public:
  // All of them outlive it. `limit`: bytes that are allocated and not handed out. What the reads of the oldest
  // unfinished item bring is always granted, or it could never complete: an item larger than the limit, say.
  DeviceWindow(const Plan& plan, const DeviceGroups& groups, const ReadyItems& ready, std::uint64_t limit);

  // The groups [begin, end) that should get memory now; about `most_bytes` of them at a time.
  [[nodiscard]] DeviceGroups::Span due(std::uint64_t most_bytes) const;
  // Memory for the next group, whose first byte is at `address`. It may be written to when `order` says so.
  void provide(std::uint64_t address, std::uint32_t order);

  // Whether all bytes of a read have a place.
  [[nodiscard]] bool covers(std::uint32_t read) const { return groups_.of_read[read].end <= provided_; }

  struct Place {
    std::uint64_t address = 0;
    std::uint32_t order = 0;
  };
  // Precondition: the group has memory. May be called without the lock by who knows that.
  [[nodiscard]] const Place& place(std::uint32_t group) const { return places_[group]; }

  // An item is handed out.
  void taken(std::uint32_t item);

  [[nodiscard]] std::uint64_t peak() const { return peak_; }

 private:
  [[nodiscard]] DeviceGroups::Span needed_by_oldest() const;

  const Plan& plan_;
  const DeviceGroups& groups_;
  const ReadyItems& ready_;
  const std::uint64_t limit_;
  std::vector<Place> places_;
  std::vector<std::uint32_t> left_;  // per group: items that are not handed out
  std::uint32_t provided_ = 0;       // groups before this have memory
  std::uint64_t used_ = 0;
  std::uint64_t peak_ = 0;
};

}  // namespace weightstream
