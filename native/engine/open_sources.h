// Opens the sources of a load, local files and objects over HTTP at the same time.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "engine/sources.h"
#include "format/header.h"

namespace weightstream {

// A path, or an object that is opened by its first read.
using SourceSpec = std::variant<std::string, std::shared_ptr<HttpObject>>;

inline const std::atomic<bool> kNeverCancelled = false;

struct OpenedHeaders {
  std::shared_ptr<const Sources> sources;
  std::vector<Header> headers;  // of each source
};
// Opens each source and reads and validates its header.
[[nodiscard]] Result<OpenedHeaders> open_headers(const std::vector<SourceSpec>& specs, LogSink& log,
                                                 const std::atomic<bool>& cancelled);

struct OpenedSources {
  std::shared_ptr<const Sources> sources;
  // The first bytes (1 MiB at most) of objects whose size nobody had said: reading them is how it was found out.
  std::vector<std::vector<std::byte>> heads;
};
// Opens sources of any content.
[[nodiscard]] Result<OpenedSources> open_sources(const std::vector<SourceSpec>& specs, LogSink& log,
                                                 const std::atomic<bool>& cancelled);

}  // namespace weightstream
