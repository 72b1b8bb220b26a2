// Which reader suits a local file: found out by asking the file, its filesystem and the kernel, not by version numbers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "storage/local_file.h"
#include "storage/reader_kind.h"

namespace weightstream {

struct ReaderChoice {
  ReaderKind kind;
  std::string reason;  // for people: "cold file on ext4: io_uring with O_DIRECT"
  bool fallback = false;  // the better reader was refused
};

// Chooses for the files of one load; what holds for all of them is found out once.
class LocalProbe {
 public:
  explicit LocalProbe(Backend backend) : backend_(backend) {}

  // Fails with kConfig when a forced backend cannot work here (io_uring refused), with the handle's errors otherwise.
  Result<ReaderChoice> choose(const LocalFile& file);
  // As choose(), for a file of which one read is wanted: by the caller itself, unless that could keep it waiting.
  Result<ReaderChoice> choose_for_one_read(const LocalFile& file);

 private:
  [[nodiscard]] const Status& ring();

  Backend backend_;
  std::optional<Status> ring_;  // whether io_uring works here
};

// Whether O_DIRECT reads of the file come from a device of this machine: then each process that reads it so brings all
// of it from there.
[[nodiscard]] bool has_device(int fd);

// The part of a range, 0 to 1, that is in the page cache; negative when the kernel does not say (before Linux 6.5).
[[nodiscard]] double cached_part(int fd, std::uint64_t offset, std::uint64_t length);

// The part of the file, 0 to 1, that is in the page cache, by reads of single bytes that must not wait; negative where
// there are no such reads. The pages that it looks at may come into the cache by that, so it looks at others each time.
[[nodiscard]] double cached_without_waiting(int fd, std::uint64_t size);

// The part of the file, 0 to 1, that is in the page cache, from a sample; negative when the kernel does not say.
[[nodiscard]] double cached_fraction(int fd, std::uint64_t size);

}  // namespace weightstream
