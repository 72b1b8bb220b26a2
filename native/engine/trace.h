// What a stream did when: its reads, its copies to a device, and what its consumer waited for and was handed. Only kept
// when asked for. Not thread-safe: the stream guards it with its lock.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "engine/plan.h"
#include "storage/reader_kind.h"

namespace weightstream {

struct TraceEvent {
  enum class Kind : std::uint8_t {
    kRead,  // of `read` by `reader`, from its admission to its last byte
    kFailedRead,
    kCopy,  // of what `read` brought, to the device; behind the copies before it
    kWaitForStorage,  // the consumer waited
    kWaitForDevice,
    kHandOver,  // of `item`, a moment
  };
  Kind kind = Kind::kRead;
  ReaderKind reader = ReaderKind::kPread;
  std::uint32_t index = 0;  // of the read or the item
  double begin = 0;  // seconds since the stream was asked for
  double end = 0;
};

class Trace {
 public:
  using Clock = std::chrono::steady_clock;

  Trace(Clock::time_point called, std::size_t reads) : called_(called), reads_(reads) {}

  void read_begins(std::uint32_t read) { reads_[read].begin = now(); }
  void read_ends(std::uint32_t read, ReaderKind reader, bool ok);
  // Its copies have ended.
  void copied(std::uint32_t read);
  void waited(double seconds, double for_device);
  void handed_over(std::uint32_t item);

  [[nodiscard]] const std::vector<TraceEvent>& events() const { return events_; }

 private:
  struct Times {
    double begin = 0;
    double end = 0;
  };
  [[nodiscard]] double now() const { return std::chrono::duration<double>(Clock::now() - called_).count(); }
  void add(const TraceEvent& event);

  const Clock::time_point called_;
  std::vector<Times> reads_;
  double last_copy_ended_ = 0;
  std::vector<TraceEvent> events_;
};

}  // namespace weightstream
