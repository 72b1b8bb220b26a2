// The first bytes of objects over HTTP, all objects at once: most headers come with the first round trip.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "storage/http_connections.h"
#include "storage/http_object.h"

namespace weightstream {

// Most headers fit, so most checkpoints need one round trip to the storage.
inline constexpr std::uint64_t kSpeculativeBytes = 1 << 20;

// Who gets the first bytes. Called by several threads at once, once or twice for each object.
class HeadConsumer {
 public:
  virtual ~HeadConsumer() = default;
  // Takes what there is of object `index`, from its begin on; returns how many bytes it takes to go on: not more than
  // there are when it is done.
  virtual Result<std::uint64_t> take(std::size_t index, std::span<const std::byte> bytes) = 0;
};

// Opens `objects` by reading their first `speculative_bytes`, and more of those for which the consumer wants more.
// Returns when all is done, at the first error, or soon after `cancelled` is set (kClosed).
[[nodiscard]] Status read_heads(const std::vector<std::shared_ptr<HttpObject>>& objects,
                                std::uint64_t speculative_bytes, HttpConnections& connections, HeadConsumer& consumer,
                                LogSink& log, const std::atomic<bool>& cancelled);

// The remote part of a list of sources, read on a thread of its own while the caller reads the local files.
class RemotePart {
 public:
  RemotePart() = default;
  RemotePart(const RemotePart&) = delete;
  RemotePart& operator=(const RemotePart&) = delete;
  ~RemotePart();

  void add(std::size_t position, std::shared_ptr<HttpObject> object);
  // All of what is passed outlives the part.
  void start(HttpConnections& connections, HeadConsumer& consumer, LogSink& log, const std::atomic<bool>& cancelled);
  Status finish();

  std::vector<std::size_t> positions;  // in the list of sources
  std::vector<std::shared_ptr<HttpObject>> objects;

 private:
  std::thread thread_;
  Status status_ = Ok{};
};

}  // namespace weightstream
