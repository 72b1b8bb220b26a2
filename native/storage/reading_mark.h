// Marks of processes that read the same file at the same time, as the ranks of one machine do.
//
// Read past the page cache, a file comes from the device once for each of them; through the cache, once for all. So who
// reads a local file marks it, and looks for the marks of others. A mark is a shared lock of the open file description
// (F_OFD_SETLK in fcntl(2)) on a byte that no file has: it keeps no reader from anything, takes no file of its own,
// needs no common memory, and is gone with its process. Where the filesystem has no such locks nobody sees anybody.
#pragma once

#include <sys/types.h>

#include <memory>

#include "storage/local_file.h"

namespace weightstream {

// As long as it lives, other opens of the file see that it is being read. Thread-safe in this: any number of marks of
// one handle are one lock.
class ReadingMark {
 public:
  ReadingMark() = default;  // marks nothing
  explicit ReadingMark(std::shared_ptr<LocalFile::Handle> handle);
  ReadingMark(ReadingMark&&) noexcept = default;
  ReadingMark& operator=(ReadingMark&& other) noexcept;
  ~ReadingMark();

 private:
  std::shared_ptr<LocalFile::Handle> handle_;
  pid_t process_ = 0;  // that made it
};

// Whether the file is marked through another handle than this one, mostly by another process.
[[nodiscard]] bool others_read(const LocalFile::Handle& handle);

}  // namespace weightstream
