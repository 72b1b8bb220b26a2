// A Reader that forwards to a real one and spoils the k-th completion: reports an error in its place, holds it back as
// long as anything else can go on, or turns the order of completions around. Put under a stream by
// StreamOptions::make_reader.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "engine/readers.h"

namespace weightstream::testing {

enum class Fault : std::uint8_t {
  kNone,
  kIoError,        // the k-th read fails with EIO
  kTruncated,      // the k-th read finds the file ended
  kSourceChanged,  // after the k-th read the file is another one
  kDelayed,        // the k-th read is reported when nothing else goes on without it
  kReversed,       // from the k-th on, reads are reported newest first, four at a time
  kNoStart,        // the k-th reader cannot be started
};

// Which faults of a stream there are to be, and whether it came to that. Shared by all readers of the stream.
struct FaultPlan {
  Fault fault = Fault::kNone;
  std::uint64_t at = 0;  // k, from 1
  std::atomic<std::uint64_t> completions = 0;
  std::atomic<std::uint64_t> starts = 0;
  std::atomic<bool> happened = false;
};

// Whether the stream must fail when the fault happens.
[[nodiscard]] constexpr bool fails(Fault fault) {
  return fault != Fault::kNone && fault != Fault::kDelayed && fault != Fault::kReversed;
}
[[nodiscard]] const char* name(Fault fault);

// The factory that wraps what `inner` makes.
[[nodiscard]] ReaderFactory with_faults(std::shared_ptr<FaultPlan> plan, ReaderFactory inner = make_reader);

}  // namespace weightstream::testing
