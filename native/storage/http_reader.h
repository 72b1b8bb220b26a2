// Reads objects over HTTP: a few threads, each with many connections.
#pragma once

#include <cstdint>
#include <memory>

#include "base/log.h"
#include "storage/http_connections.h"
#include "storage/http_host.h"
#include "storage/reader.h"

namespace weightstream {

struct HttpReaderOptions {
  std::uint32_t start_concurrency = 16;  // connections at first
  std::uint32_t most_concurrency = 128;
  std::uint32_t threads = 0;  // 0: as many as this machine's cores are worth
};

// Requests must be of HttpObject sources. A request of an object whose size is not known opens it: it has to be the
// only one of that object, and what is delivered ends where the object does. `connections`, `host` (may be null; what
// is learned of it is kept there) and `log` outlive the reader.
[[nodiscard]] std::unique_ptr<Reader> make_http_reader(HttpReaderOptions options, HttpConnections& connections,
                                                       HttpHost* host, LogSink& log);

}  // namespace weightstream
