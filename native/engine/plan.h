// The plan of a load: which bytes are wanted, the reads that bring them, and which items each read completes.
//
// wanted items -> extents (rounded out to 4 KiB, merged over small gaps) -> reads (cut to size), all in file order.
// No block of 4 KiB is ever read twice: a second read would undo what a consumer has written to the tensor next door.
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"

namespace weightstream {

// A byte range that is handed out as one: a tensor, or a contiguous part of one.
struct PlanItem {
  std::uint32_t source = 0;
  ByteRange range;
  std::uint32_t alignment = 1;  // bytes, of one element
};

struct PlanRead {
  std::uint32_t source = 0;
  std::uint32_t first_item = 0;  // the items it overlaps are [first_item, first_item + items)
  std::uint32_t items = 0;
  ByteRange range;            // multiples of 4 KiB; may end past the source's end, inside its last 4 KiB
  std::uint64_t wasted = 0;  // bytes of it that belong to no item: gaps and rounding
};

struct PlanOptions {
  std::uint64_t read_bytes = 8 << 20;  // a multiple of 4 KiB
  std::uint64_t least_read_bytes = 1 << 20;
  std::uint64_t most_gap_bytes = 128 << 10;  // gaps up to this are read through rather than skipped
  // The same for sources with a round trip before the first byte, by their index; beyond its end a source has none.
  std::uint64_t most_remote_gap_bytes = 1 << 20;
  std::vector<bool> remote = {};
  // The reads of the last `tail_reads` x read_bytes shrink, so that all places in flight end at about the same time.
  std::uint32_t tail_reads = 16;

  [[nodiscard]] std::uint64_t gap_of(std::uint32_t source) const {
    return source < remote.size() && remote[source] ? most_remote_gap_bytes : most_gap_bytes;
  }
};

struct Plan {
  std::vector<PlanItem> items;  // ascending by source, then by offset
  std::vector<std::uint32_t> reads_left;  // per item: the reads that overlap it; 0 for empty items
  std::vector<ByteRange> item_reads;      // per item: indexes of those reads, [begin, end)
  std::vector<PlanRead> reads;            // in file order
  struct Extent {
    std::uint32_t source = 0;
    ByteRange range;
  };
  std::vector<Extent> extents;

  // Bytes of all reads that overlap item `i`: the memory that it takes to complete it.
  [[nodiscard]] std::uint64_t span(std::size_t i) const;
};

// `items` ascend by source and offset and do not overlap.
[[nodiscard]] Plan make_plan(std::vector<PlanItem> items, const PlanOptions& options);

}  // namespace weightstream
