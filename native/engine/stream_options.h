// What a stream is asked for, and what follows from it for its plan and its memory.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/device_target.h"
#include "engine/plan.h"
#include "engine/readers.h"
#include "engine/sources.h"

namespace weightstream {

struct StreamOptions {
  bool file_order = false;         // hand out in exact file order; otherwise as items complete
  std::uint64_t memory_limit = 0;  // bytes in flight or ready but not taken; 0: a default that fits the machine
  std::uint32_t concurrency = 0;   // most reads in flight per reader; 0: found out while reading
  Backend backend = Backend::kAuto;
  bool parts = false;              // parts of tensors: other processes that read these files want other parts
  bool trace = false;              // keep what it did when
  std::optional<DeviceTarget> device = {};  // where items go; host memory without one
  ReaderFactory make_reader = weightstream::make_reader;  // tests put faults here
};

// Whether reads go to the device, and not to host memory from where a framework copies. A single read gains nothing
// from going through pinned memory, and a mapping is where it is.
[[nodiscard]] bool lands_on_device(const StreamOptions& stream, const Plan& plan);

// Bytes.
[[nodiscard]] std::uint64_t default_memory_limit(const StreamOptions& stream);
// The part of the memory limit that dead tensors' blocks may take while they wait for the next read.
[[nodiscard]] std::uint64_t kept_share(std::uint64_t memory_limit);
[[nodiscard]] PlanOptions plan_options(const Sources& sources, const StreamOptions& stream);

}  // namespace weightstream
