// Which NUMA node memory comes from. By system call: what it does not do costs speed, nothing else.
#pragma once

#include <cstddef>
#include <cstdint>

namespace weightstream {

// Whether this machine has memory on more than one node.
[[nodiscard]] bool several_numa_nodes();

// Pages of [memory, memory + bytes), page aligned and not touched yet, will come from `node` as long as it has any
// left. Returns whether the kernel agreed.
bool prefer_numa_node(std::byte* memory, std::uint64_t bytes, int node);

}  // namespace weightstream
