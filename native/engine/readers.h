// Makes the reader of each kind, with its defaults for this machine.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/log.h"
#include "storage/local_probe.h"
#include "storage/reader.h"

namespace weightstream {

// The name of a reader in stats and logs: "uring", "pread", "mmap", "inline".
[[nodiscard]] const char* name(ReaderKind kind);

// `concurrency`: the most reads in flight; 0 lets the reader find out, within bounds of its own.
using ReaderFactory = std::function<std::unique_ptr<Reader>(ReaderKind, std::uint32_t concurrency, LogSink&)>;

[[nodiscard]] std::unique_ptr<Reader> make_reader(ReaderKind kind, std::uint32_t concurrency, LogSink& log);

}  // namespace weightstream
