#include "storage/reading_mark.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <mutex>
#include <utility>

namespace weightstream {
namespace {

struct flock mark_of(short type) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = INT64_MAX - 1;
  lock.l_len = 1;
  return lock;
}

// Neither waits. What it says of a failure is nothing that anybody could act on.
void set(const LocalFile::Handle& handle, short type) {
  struct flock lock = mark_of(type);
  static_cast<void>(::fcntl(handle.buffered.get(), F_OFD_SETLK, &lock));
}

}  // namespace

ReadingMark::ReadingMark(std::shared_ptr<LocalFile::Handle> handle) : handle_(std::move(handle)), process_(::getpid()) {
  const std::lock_guard lock(handle_->marking);
  if (handle_->marks++ == 0) set(*handle_, F_RDLCK);
}

ReadingMark& ReadingMark::operator=(ReadingMark&& other) noexcept {
  std::swap(handle_, other.handle_);
  std::swap(process_, other.process_);
  return *this;
}

ReadingMark::~ReadingMark() {
  // In a forked child the lock is the parent's, and `marking` may be held for ever.
  if (!handle_ || process_ != ::getpid()) return;
  const std::lock_guard lock(handle_->marking);
  // Closing would not do: mappings of the file keep the description, and with it the lock.
  if (--handle_->marks == 0) set(*handle_, F_UNLCK);
}

bool others_read(const LocalFile::Handle& handle) {
  // The kernel names whatever would be in the way of a writer. Locks of this description never are.
  struct flock lock = mark_of(F_WRLCK);
  return ::fcntl(handle.buffered.get(), F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

}  // namespace weightstream
