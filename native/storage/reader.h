// How reads are executed: a Reader pulls requests from a ReadFeed, fills them, and reports each one.
//
// There is one queue and no static slicing: a reader asks for the next request whenever it has a free place, so slow
// and fast requests even out by themselves. The feed decides order and admission (memory), the reader decides how
// many requests it keeps in flight.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "storage/source.h"

namespace weightstream {

// A part of a read that goes to the memory of a device.
struct DevicePart {
  std::uint64_t offset = 0;  // in the source
  std::uint64_t bytes = 0;
  std::uint64_t to = 0;  // the device address of its first byte
};

// A read of `length` bytes at `offset` of `source` into memory at `into`. Offset and length are multiples of 4 KiB and
// `into` is congruent to `offset` modulo 4 KiB. `wanted` bytes of it exist in the source: less than `length` only where
// the source ends inside the last 4 KiB. The source outlives the request.
//
// One for a reader that writes to a device (gds) has no `into`, but `parts`: they ascend, lie inside the wanted bytes,
// and are all that is read. Nothing else uses their memory any more.
struct ReadRequest {
  const Source* source = nullptr;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  std::uint64_t wanted = 0;
  std::byte* into = nullptr;
  std::uint32_t id = 0;
  std::vector<DevicePart> parts = {};

  [[nodiscard]] ByteRange range() const { return {offset, offset + wanted}; }
};

// What a reader did for a request beside delivering its bytes.
struct ReadEffort {
  std::uint32_t retries = 0;
};

// Where a reader gets its work. Thread-safe; callable from any thread of the reader.
class ReadFeed {
 public:
  virtual ~ReadFeed() = default;
  // The next request, or nothing for now (no admission, or none left). The reader is woken when that changes.
  virtual std::optional<ReadRequest> pull() = 0;
  // Every request that was pulled is reported exactly once: all `wanted` bytes (or all parts) are in place and the
  // source is still the one that was opened, or an error.
  virtual void complete(const ReadRequest& request, Result<ReadEffort> result) = 0;
};

// Lifecycle: start() once, wake() at any time in between, stop() once. stop() returns when no thread of the reader
// runs and nothing writes to any request's memory any more; requests that were pulled are all reported by then.
class Reader {
 public:
  virtual ~Reader() = default;
  virtual Status start(ReadFeed& feed) = 0;
  virtual void wake() = 0;
  virtual void stop() = 0;
};

}  // namespace weightstream
