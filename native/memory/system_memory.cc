#include "memory/system_memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

namespace weightstream {
namespace {

std::optional<std::uint64_t> read_number(const std::string& path) {
  std::ifstream file(path);
  std::uint64_t value = 0;
  if (file >> value) return value;  // "max" and missing files fail here
  return std::nullopt;
}

// `key` of a "key value" file, such as inactive_file in memory.stat.
std::uint64_t read_key(const std::string& path, const std::string& key) {
  std::ifstream file(path);
  std::string name;
  std::uint64_t value = 0;
  while (file >> name >> value) {
    if (name == key) return value;
  }
  return 0;
}

std::uint64_t machine_available() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  while (file >> name) {
    std::uint64_t kib = 0;
    if (name == "MemAvailable:" && file >> kib) return kib << 10;
    file.ignore(256, '\n');
  }
  return 0;
}

struct Hierarchy {
  std::string root;   // where it is mounted
  std::string group;  // this process' group, "/a/b"
  const char* limit;
  const char* usage;
  const char* inactive;
};

// What is left under the tightest limit between the group and the root. Clean page cache counts as free: the kernel
// drops it before it refuses memory.
std::optional<std::uint64_t> left_in(const Hierarchy& hierarchy) {
  std::optional<std::uint64_t> least;
  for (std::string group = hierarchy.group;;) {
    const std::string folder = hierarchy.root + group;
    const auto limit = read_number(folder + hierarchy.limit);
    const auto usage = read_number(folder + hierarchy.usage);
    if (limit && usage) {
      const auto cache = read_key(folder + "/memory.stat", hierarchy.inactive);
      const auto in_use = *usage - std::min(*usage, cache);
      least = std::min(least.value_or(UINT64_MAX), *limit - std::min(*limit, in_use));
    }
    if (group.empty() || group == "/") break;
    group.resize(group.rfind('/'));
  }
  return least;
}

}  // namespace

std::uint64_t available_memory() {
  std::uint64_t available = machine_available();
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    std::optional<std::uint64_t> left;
    if (controllers.empty()) {
      left = left_in({"/sys/fs/cgroup", group, "/memory.max", "/memory.current", "inactive_file"});
    } else if (controllers == "memory") {
      left = left_in(
          {"/sys/fs/cgroup/memory", group, "/memory.limit_in_bytes", "/memory.usage_in_bytes", "total_inactive_file"});
    }
    if (left) available = std::min(available, *left);
  }
  return available;
}

}  // namespace weightstream
