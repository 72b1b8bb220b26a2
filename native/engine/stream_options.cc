#include "engine/stream_options.h"

#include <algorithm>
#include <cstddef>

#include "memory/system_memory.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kDefaultMemoryLimit = std::uint64_t{4} << 30;
// Where the device's memory is the host's. As many slots as keep a fast disk busy: what is pinned, the model lacks.
constexpr std::uint64_t kDefaultIntegratedLimit = 256 * kMiB;
// An object store is read over many connections, each of them slow: the tail has to be cut for all of them.
constexpr std::uint32_t kRemoteTailReads = 64;

}  // namespace

bool lands_on_device(const StreamOptions& stream, const Plan& plan) {
  return stream.device && plan.reads.size() > 1 && stream.backend != Backend::kMmap;
}

std::uint64_t default_memory_limit(const StreamOptions& stream) {
  const bool integrated = stream.device && stream.device->accelerator->integrated();
  const std::uint64_t most = integrated ? kDefaultIntegratedLimit : kDefaultMemoryLimit;
  const std::uint64_t available = available_memory();
  if (available == 0) return most;
  return std::clamp(available / 4, 64 * kMiB, most);
}

std::uint64_t kept_share(std::uint64_t memory_limit) { return std::min(memory_limit / 4, 256 * kMiB); }

// A small limit has to hold several reads, or the bound would stop and drain the storage. Slots have one size.
PlanOptions plan_options(const Sources& sources, const StreamOptions& stream) {
  PlanOptions options;
  for (std::size_t source = 0; source < sources.size(); ++source) {
    const bool remote = sources.remote(source) != nullptr;
    options.remote.push_back(remote);
    if (remote) options.tail_reads = kRemoteTailReads;
  }
  if (stream.device) return options;
  while (options.read_bytes > 256 << 10 && options.read_bytes * 32 > stream.memory_limit) options.read_bytes /= 2;
  options.least_read_bytes = std::min(options.least_read_bytes, options.read_bytes);
  return options;
}

}  // namespace weightstream
