// Opens the sources of a checkpoint, local files and objects over HTTP at the same time, and reads their headers.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "engine/sources.h"
#include "format/header.h"

namespace weightstream {

struct OpenedHeaders {
  std::shared_ptr<const Sources> sources;
  std::vector<Header> headers;  // of each source
};
// Opens each source and reads and validates its header.
[[nodiscard]] Result<OpenedHeaders> open_headers(const std::vector<SourceSpec>& specs, LogSink& log,
                                                 const std::atomic<bool>& cancelled);

}  // namespace weightstream
