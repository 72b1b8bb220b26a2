// A local file as a source: opened, identified, and checked for change.
//
// This is the one place where errno becomes an Error.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/result.h"
#include "storage/source.h"

namespace weightstream {

// What says that a file is still the same: the version of a local source.
struct FileIdentity {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  friend bool operator==(const FileIdentity&, const FileIdentity&) = default;
};

// An owned descriptor.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int fd) : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();
  [[nodiscard]] int get() const { return fd_; }
  // Leaves the descriptor to the caller.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

class LocalFile final : public Source {
 public:
  // Opens `path`, a regular file. Fails with kNotFound, kAuth, kConfig (directory, FIFO, socket, device) or kStorage.
  static Result<std::shared_ptr<LocalFile>> open(std::string path);

  [[nodiscard]] const std::string& name() const override { return path_; }
  [[nodiscard]] std::uint64_t size() const override { return identity_.size; }

  // A descriptor for buffered reads, and one that bypasses the page cache. They stay open while somebody holds the
  // Handle, so a file that is unlinked or replaced meanwhile is read to its end.
  struct Handle {
    explicit Handle(FileDescriptor fd) : buffered(std::move(fd)) {}
    FileDescriptor buffered;
    FileDescriptor direct;  // empty until open_direct() succeeded
    std::atomic<bool> direct_refused = false;
    std::atomic<bool> shared = false;  // others were seen to read the file, too: go through the page cache
    std::mutex marking;
    std::uint32_t marks = 0;  // ReadingMark's, under `marking`
  };
  // The open handle, or the file opened again: then it has to be the same file, else kSourceChanged.
  Result<std::shared_ptr<Handle>> handle() const;
  // Lets go of the handle that the file itself keeps; whoever else holds it still has it.
  void park() const;

  // A descriptor of the caller's own for buffered access, of the file as it was: kSourceChanged otherwise.
  Result<FileDescriptor> duplicate() const;

  // Opens the direct descriptor of `handle` (of this file) if it is not open yet. Returns 0, or the errno of the
  // refusal, which is remembered unless it speaks of a shortage.
  int open_direct(Handle& handle) const;
  // Another descriptor of the very same file that bypasses the page cache, for whoever needs one of its own. Fails with
  // kStorage and the errno of the refusal.
  Result<FileDescriptor> another_direct(const Handle& handle) const;

  // Whether the file behind the descriptor still is what was opened: kSourceChanged otherwise.
  Status check_unchanged(int fd) const;

  // Reads exactly `length` bytes at `offset`; kTruncated when the file ends before. Returns how often the read had to
  // be resumed, after a short read or an interruption.
  Result<std::uint32_t> read_exactly(int fd, std::byte* into, std::uint64_t offset, std::uint64_t length) const;

  // The error for `error` (an errno) from reading `range`.
  [[nodiscard]] Error read_error(int error, ByteRange range) const;
  // The error for a file that ended at `end`, inside `range`.
  [[nodiscard]] Error truncated(ByteRange range, std::uint64_t end) const;

 private:
  LocalFile(std::string path, FileIdentity identity, std::shared_ptr<Handle> handle);
  Error changed(const FileIdentity& now) const;

  std::string path_;
  FileIdentity identity_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<Handle> kept_;
  mutable std::weak_ptr<Handle> open_;
};

}  // namespace weightstream
