// Which items of a plan share one allocation of device memory, and one copy.
//
// Small neighbours of a file are packed: they lie on the device as they do in the file, so that 40,000 tensors are a
// few hundred allocations and copies. Larger items have an allocation of their own.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "engine/plan.h"

namespace weightstream {

struct DeviceGroup {
  std::uint32_t source = 0;
  std::uint32_t first_item = 0;  // its items are [first_item, first_item + items), those of no bytes left out
  std::uint32_t items = 0;       // of some bytes
  ByteRange range;               // of the source; all of it belongs to its items
};

struct DeviceGroups {
  static constexpr std::uint32_t kNone = UINT32_MAX;
  struct Span {  // [begin, end)
    std::uint32_t begin = 0;
    std::uint32_t end = 0;
  };

  std::vector<DeviceGroup> groups;     // in the order of the plan
  std::vector<std::uint32_t> of_item;  // kNone for an item of no bytes
  std::vector<Span> of_read;           // the groups that a read has bytes of
};

// With `packed` false every item is alone: its memory is the caller's.
[[nodiscard]] DeviceGroups make_device_groups(const Plan& plan, bool packed);

}  // namespace weightstream
