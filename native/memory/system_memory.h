// How much memory this process may still take, by the machine and by its control group.
#pragma once

#include <cstdint>

namespace weightstream {

// Bytes; the smaller of MemAvailable and what the cgroup (v1 or v2, every level up to the root) still allows.
// 0 when neither can be read.
[[nodiscard]] std::uint64_t available_memory();

}  // namespace weightstream
