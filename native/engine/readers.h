// Makes the reader of each kind, with its defaults for this machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/log.h"
#include "device/accelerator.h"
#include "device/cufile.h"
#include "storage/http_connections.h"
#include "storage/http_host.h"
#include "storage/local_probe.h"
#include "storage/reader.h"

namespace weightstream {

// The name of a reader in stats and logs: "uring", "pread", "mmap", "inline", "http", "gds".
[[nodiscard]] const char* name(ReaderKind kind);

// What a reader may need, all of which outlives it.
struct ReaderContext {
  std::uint32_t concurrency = 0;  // the most reads in flight; 0 lets the reader find out, within bounds of its own
  bool heeds_others = false;      // see UringOptions
  LogSink& log;
  HttpConnections* connections = nullptr;  // of the http reader
  HttpHost* host = nullptr;                // of the http reader, if its sources have one
  std::shared_ptr<Accelerator> accelerator = {};  // of the gds reader
  std::shared_ptr<const CuFile> cufile = {};      // of the gds reader
};

using ReaderFactory = std::function<std::unique_ptr<Reader>(ReaderKind, const ReaderContext&)>;

[[nodiscard]] std::unique_ptr<Reader> make_reader(ReaderKind kind, const ReaderContext& context);

}  // namespace weightstream
