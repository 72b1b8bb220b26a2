#include "memory/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <fstream>
#include <string>

namespace weightstream {

bool several_numa_nodes() {
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string nodes;  // "0", "0-1", "0,2"
  return file >> nodes && nodes.find_first_of("-,") != std::string::npos;
}

bool prefer_numa_node(std::byte* memory, std::uint64_t bytes, int node) {
  constexpr std::size_t kWordBits = sizeof(unsigned long) * CHAR_BIT;
  constexpr std::size_t kMostNodes = 1024;
  if (node < 0 || static_cast<std::size_t>(node) >= kMostNodes) return false;
  std::array<unsigned long, kMostNodes / kWordBits> nodes{};
  const auto bit = static_cast<std::size_t>(node);
  nodes[bit / kWordBits] = 1UL << (bit % kWordBits);
  // Preferred, not bound: a full node must not end the process. The kernel takes one bit less than it is told of.
  return ::syscall(SYS_mbind, memory, bytes, MPOL_PREFERRED, nodes.data(), kMostNodes + 1, 0) == 0;
}

}  // namespace weightstream
