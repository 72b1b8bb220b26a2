// Files that are registered with cuFile, each by a descriptor of its own: one descriptor cannot be registered twice,
// and that of the file itself may be in use by other streams and was opened with flags that cuFile does not take.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <utility>

#include "base/result.h"
#include "device/cufile.h"
#include "storage/local_file.h"

namespace weightstream {

// Registered as long as it lives.
class GdsFile {
 public:
  // Fails with kStorage where the file cannot be read past the page cache, with kDevice where cuFile refuses it, and
  // with the handle's errors.
  static Result<std::shared_ptr<const GdsFile>> open(std::shared_ptr<const CuFile> cufile, const LocalFile& file);
  ~GdsFile() { cufile_->deregister_file(registered_); }
  GdsFile(const GdsFile&) = delete;
  GdsFile& operator=(const GdsFile&) = delete;

  [[nodiscard]] void* registered() const { return registered_; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  GdsFile(std::shared_ptr<const CuFile> cufile, FileDescriptor fd, void* registered)
      : cufile_(std::move(cufile)), fd_(std::move(fd)), registered_(registered) {}

  const std::shared_ptr<const CuFile> cufile_;
  const FileDescriptor fd_;
  void* const registered_;
};

// Those of one reader. A stream reads file after file, so few are needed at a time: a checkpoint of more shards than
// descriptors works. Thread-safe.
class GdsFiles {
 public:
  explicit GdsFiles(std::shared_ptr<const CuFile> cufile) : cufile_(std::move(cufile)) {}

  // The file, registered: now, or by an earlier call. It stays so while somebody holds it.
  Result<std::shared_ptr<const GdsFile>> of(const LocalFile& file);

 private:
  struct Entry {
    const LocalFile* file;
    std::shared_ptr<const GdsFile> opened;
  };
  const std::shared_ptr<const CuFile> cufile_;
  std::mutex mutex_;
  std::deque<Entry> entries_;  // the oldest first
};

}  // namespace weightstream
