#include "engine/trace.h"

#include <algorithm>

namespace weightstream {
namespace {

// 40 MB. More than any viewer opens; what comes later is left out.
constexpr std::size_t kMostEvents = 1'000'000;

}  // namespace

void Trace::add(const TraceEvent& event) {
  if (events_.size() < kMostEvents) events_.push_back(event);
}

void Trace::read_ends(std::uint32_t read, ReaderKind reader, bool ok) {
  reads_[read].end = now();
  add({.kind = ok ? TraceEvent::Kind::kRead : TraceEvent::Kind::kFailedRead,
       .reader = reader,
       .index = read,
       .begin = reads_[read].begin,
       .end = reads_[read].end});
}

// Copies run in the order in which reads arrived, one at a time: each begins when the one before it has ended.
void Trace::copied(std::uint32_t read) {
  const double begin = std::max(reads_[read].end, last_copy_ended_);
  last_copy_ended_ = now();
  add({.kind = TraceEvent::Kind::kCopy, .index = read, .begin = begin, .end = last_copy_ended_});
}

void Trace::waited(double seconds, double for_device) {
  const double end = now();
  const double storage_ended = end - for_device;
  if (seconds > for_device) {
    add({.kind = TraceEvent::Kind::kWaitForStorage, .begin = end - seconds, .end = storage_ended});
  }
  if (for_device > 0) add({.kind = TraceEvent::Kind::kWaitForDevice, .begin = storage_ended, .end = end});
}

void Trace::handed_over(std::uint32_t item) {
  const double at = now();
  add({.kind = TraceEvent::Kind::kHandOver, .index = item, .begin = at, .end = at});
}

}  // namespace weightstream
