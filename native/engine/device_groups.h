// Which items of a plan share one allocation of device memory, and which of those one copy.
//
// Small items that follow each other are packed, so that 40,000 tensors are a few hundred allocations. They lie on the
// device as they do in the file, and what lies together is copied together, as far as each comes to lie where kernels
// can load it; one that does not begins a run of its own a few bytes further on, which costs a copy and no allocation.
// Larger items have an allocation of their own.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/error.h"
#include "engine/plan.h"

namespace weightstream {

// Bytes that lie in the memory of their group as they do in the source.
struct DeviceRun {
  ByteRange range;       // of the source; all of it belongs to items
  std::uint64_t at = 0;  // in the memory of the group
};

struct DeviceGroup {
  std::uint32_t source = 0;
  std::uint32_t first_item = 0;  // its items are [first_item, first_item + items), those of no bytes left out
  std::uint32_t items = 0;       // of some bytes
  std::uint32_t first_run = 0;   // its runs are [first_run, first_run + runs), in the order of the source
  std::uint32_t runs = 0;
  std::uint64_t bytes = 0;       // of its memory
};

struct DeviceGroups {
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Span {  // [begin, end)
    std::uint32_t begin = 0;
    std::uint32_t end = 0;
  };

  std::vector<DeviceGroup> groups;     // in the order of the plan
  std::vector<DeviceRun> runs;
  std::vector<std::uint32_t> of_item;  // kNone for an item of no bytes
  std::vector<std::uint32_t> at;       // of an item in the memory of its group
  std::vector<Span> of_read;           // the groups that a read has bytes of

  // The runs of a group that have bytes in `range` of its source.
  [[nodiscard]] std::span<const DeviceRun> runs_in(const DeviceGroup& group, const ByteRange& range) const;
};

// With `packed` false every item is alone: its memory is the caller's.
[[nodiscard]] DeviceGroups make_device_groups(const Plan& plan, bool packed);

}  // namespace weightstream
