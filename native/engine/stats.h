// What a stream did and where it waited. Bytes and seconds.
#pragma once

#include <array>
#include <cstdint>
#include <iterator>

#include "storage/reader_kind.h"

namespace weightstream {

struct StreamStats {
  std::uint64_t items = 0;        // handed out
  std::uint64_t bytes = 0;        // of the items handed out
  std::uint64_t bytes_total = 0;  // of all items
  std::uint64_t bytes_read = 0;   // that storage delivered, gaps and rounding included
  std::uint64_t reads = 0;
  std::uint64_t retries = 0;
  double seconds = 0;                // from start to the last hand-over, or until now
  double first_item_seconds = 0;     // from start to the first hand-over
  double wait_storage_seconds = 0;   // the consumer waited in next() for storage
  double wait_device_seconds = 0;    // the consumer waited in next() for copies to a device
  double wait_consumer_seconds = 0;  // reading waited for the consumer to take what was ready (the memory limit)
  std::uint64_t peak_host_bytes = 0;
  std::uint64_t peak_device_bytes = 0;
  std::array<std::uint64_t, std::size(kReaderKinds)> bytes_by_reader{};  // indexed by ReaderKind
};

}  // namespace weightstream
