// Which reader suits a local file: found out by asking the file, its filesystem and the kernel, not by version numbers.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "storage/local_file.h"

namespace weightstream {

enum class Backend : std::uint8_t { kAuto, kUring, kPread, kMmap };  // what the caller asks for
enum class ReaderKind : std::uint8_t { kUring, kPread, kMmap, kInline };  // what executes the reads

struct ReaderChoice {
  ReaderKind kind;
  std::string reason;  // for people: "cold file on ext4: io_uring with O_DIRECT"
  bool fallback = false;  // the better reader was refused
};

// Fails with kConfig when a forced backend cannot work here (io_uring refused), with the handle's errors otherwise.
Result<ReaderChoice> choose_local_reader(const LocalFile& file, Backend backend);

// The part of the file, 0 to 1, that is in the page cache, from a sample; negative when the kernel does not say.
[[nodiscard]] double cached_fraction(int fd, std::uint64_t size);

}  // namespace weightstream
