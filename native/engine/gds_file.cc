#include "engine/gds_file.h"

#include <algorithm>

namespace weightstream {
namespace {

constexpr std::size_t kMostRegistered = 16;

}  // namespace

Result<std::shared_ptr<const GdsFile>> GdsFile::open(std::shared_ptr<const CuFile> cufile, const LocalFile& file) {
  auto handle = file.handle();
  if (!handle) return std::move(handle).error();
  auto fd = file.another_direct(**handle);
  if (!fd) return std::move(fd).error();
  auto registered = cufile->register_file(fd->get());
  if (!registered) return std::move(registered).error();
  return std::shared_ptr<const GdsFile>(new GdsFile(std::move(cufile), std::move(*fd), *registered));
}

Result<std::shared_ptr<const GdsFile>> GdsFiles::of(const LocalFile& file) {
  std::shared_ptr<const GdsFile> gone;  // after the lock: deregistering may take as long as it likes
  const std::lock_guard lock(mutex_);
  const auto known =
      std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.file == &file; });
  if (known != entries_.end()) return known->opened;
  auto opened = GdsFile::open(cufile_, file);
  if (!opened) return opened;
  if (entries_.size() == kMostRegistered) {
    gone = std::move(entries_.front().opened);
    entries_.pop_front();
  }
  entries_.push_back({&file, *opened});
  return opened;
}

}  // namespace weightstream
