// Opens sources as they are, without headers and tensors.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "engine/sources.h"

namespace weightstream {

struct OpenedSources {
  std::shared_ptr<const Sources> sources;
  // The first bytes (1 MiB at most) of objects whose size nobody had said: reading them is how it was found out.
  std::vector<std::vector<std::byte>> heads;
};
// Opens sources of any content.
[[nodiscard]] Result<OpenedSources> open_sources(const std::vector<SourceSpec>& specs, LogSink& log,
                                                 const std::atomic<bool>& cancelled);

}  // namespace weightstream
