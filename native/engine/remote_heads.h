// The first bytes of objects over HTTP, all objects at once: most headers come with the first round trip.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "storage/http_connections.h"
#include "storage/http_object.h"

namespace weightstream {

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

}  // namespace weightstream
