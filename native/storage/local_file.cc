#include "storage/local_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

namespace weightstream {
namespace {

Error open_error(const std::string& path, int error) {
  Error result{.code = ErrorCode::kStorage, .message = {}, .source = path, .system_errno = error};
  const std::string reason = std::strerror(error);
  switch (error) {
    case ENOENT:
    case ENOTDIR:
      result.code = ErrorCode::kNotFound;
      struct stat link;
      result.message = ::lstat(path.c_str(), &link) == 0 && S_ISLNK(link.st_mode)
                           ? "dangling symbolic link: what it points to does not exist"
                           : "no such file";
      break;
    case EACCES:
    case EPERM:
      result.code = ErrorCode::kAuth;
      result.message = "permission denied: this user may not read the file";
      break;
    case EMFILE: {
      struct rlimit limit{};
      ::getrlimit(RLIMIT_NOFILE, &limit);
      result.message = "too many open files: this process may open " + std::to_string(limit.rlim_cur) +
                       " (raise it with `ulimit -n`)";
      break;
    }
    default:
      result.message = "cannot open: " + reason;
  }
  return result;
}

const char* kind_of(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "not a regular file";
}

FileIdentity identity_of(const struct stat& status) {
  return {.device = status.st_dev,
          .inode = status.st_ino,
          .size = static_cast<std::uint64_t>(status.st_size),
          .mtime_ns = static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec};
}

struct Opened {
  FileDescriptor fd;
  FileIdentity identity;
};

Result<Opened> open_regular(const std::string& path) {
  if (path.find('\0') != std::string::npos) {
    return Error{.code = ErrorCode::kConfig, .message = "a path must not contain a NUL byte", .source = path};
  }
  // O_NONBLOCK: opening a FIFO must not wait for a writer. It has no effect on regular files.
  int fd = -1;
  do {
    fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) {
    const int error = errno;
    if (error != ENXIO) return open_error(path, error);
    return Error{.code = ErrorCode::kConfig, .message = "this is a socket, not a regular file", .source = path};
  }
  FileDescriptor owned(fd);
  struct stat status{};
  if (::fstat(fd, &status) != 0) return open_error(path, errno);
  if (!S_ISREG(status.st_mode)) {
    return Error{.code = ErrorCode::kConfig,
                 .message = std::string("this is ") + kind_of(status.st_mode) + ", not a regular file",
                 .source = path,
                 .system_errno = S_ISDIR(status.st_mode) ? EISDIR : 0};
  }
  return Opened{std::move(owned), identity_of(status)};
}

// Through /proc a descriptor opens the very same inode, also when the path names another file by now. Empty, and errno,
// when it is refused.
FileDescriptor open_again(int fd, int flags) {
  const std::string self = "/proc/self/fd/" + std::to_string(fd);
  return FileDescriptor(::open(self.c_str(), O_RDONLY | O_CLOEXEC | flags));
}

}  // namespace

FileDescriptor& FileDescriptor::operator=(FileDescriptor&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

FileDescriptor::~FileDescriptor() {
  if (fd_ >= 0) ::close(fd_);
}

LocalFile::LocalFile(std::string path, FileIdentity identity, std::shared_ptr<Handle> handle)
    : path_(std::move(path)), identity_(identity), kept_(std::move(handle)), open_(kept_) {}

Result<std::shared_ptr<LocalFile>> LocalFile::open(std::string path) {
  auto opened = open_regular(path);
  if (!opened) return std::move(opened).error();
  auto handle = std::make_shared<Handle>(std::move(opened->fd));
  return std::shared_ptr<LocalFile>(new LocalFile(std::move(path), opened->identity, std::move(handle)));
}

Result<std::shared_ptr<LocalFile::Handle>> LocalFile::handle() const {
  const std::lock_guard lock(mutex_);
  if (auto open = open_.lock()) return open;
  auto again = open_regular(path_);
  if (!again) return std::move(again).error();
  if (again->identity != identity_) return changed(again->identity);
  auto handle = std::make_shared<Handle>(std::move(again->fd));
  open_ = handle;
  return handle;
}

void LocalFile::park() const {
  const std::lock_guard lock(mutex_);
  kept_.reset();
}

Result<FileDescriptor> LocalFile::duplicate() const {
  auto open = handle();
  if (!open) return std::move(open).error();
  const int fd = (*open)->buffered.get();
  if (auto unchanged = check_unchanged(fd); !unchanged.ok()) return std::move(unchanged).error();
  FileDescriptor own(::fcntl(fd, F_DUPFD_CLOEXEC, 0));
  if (!own) return open_error(path_, errno);
  return own;
}

int LocalFile::open_direct(Handle& handle) const {
  const std::lock_guard lock(mutex_);
  if (handle.direct) return 0;
  if (handle.direct_refused) return EINVAL;
  FileDescriptor direct = open_again(handle.buffered.get(), O_DIRECT);
  if (!direct) {
    const int error = errno;
    if (error != EMFILE && error != ENFILE && error != ENOMEM) handle.direct_refused = true;
    return error;
  }
  handle.direct = std::move(direct);
  return 0;
}

Result<FileDescriptor> LocalFile::another_direct(const Handle& handle) const {
  FileDescriptor direct = open_again(handle.buffered.get(), O_DIRECT);
  if (direct) return direct;
  const int error = errno;
  if (error == EMFILE) return open_error(path_, error);
  return Error{.code = ErrorCode::kStorage,
               .message = std::string("O_DIRECT is refused (") + std::strerror(error) + ")",
               .source = path_,
               .system_errno = error};
}

Error LocalFile::changed(const FileIdentity& now) const {
  Error error{.code = ErrorCode::kSourceChanged, .message = {}, .source = path_};
  if (now.device != identity_.device || now.inode != identity_.inode) {
    error.message = "another file took its place since its header was read; open the checkpoint again";
  } else if (now.size != identity_.size) {
    error.message = "its size changed from " + std::to_string(identity_.size) + " to " + std::to_string(now.size) +
                    " bytes since its header was read; open the checkpoint again when the writer is done";
    error.expected = identity_.size;
    error.got = now.size;
  } else {
    error.message = "it was written to since its header was read; open the checkpoint again when the writer is done";
  }
  return error;
}

Status LocalFile::check_unchanged(int fd) const {
  struct stat status{};
  if (::fstat(fd, &status) != 0) return read_error(errno, {0, identity_.size});
  const FileIdentity now = identity_of(status);
  if (now != identity_) return changed(now);
  return Ok{};
}

Result<std::uint32_t> LocalFile::read_exactly(int fd, std::byte* into, std::uint64_t offset,
                                              std::uint64_t length) const {
  const ByteRange range{offset, offset + length};
  std::uint32_t resumed = 0;
  while (length > 0) {
    const ssize_t got = ::pread(fd, into, length, static_cast<off_t>(offset));
    if (got < 0) {
      if (errno != EINTR) return read_error(errno, range);
      ++resumed;
      continue;
    }
    if (got == 0) return truncated(range, offset);
    const auto bytes = static_cast<std::uint64_t>(got);
    if (bytes < length) ++resumed;
    into += bytes;
    offset += bytes;
    length -= bytes;
  }
  return resumed;
}

Error LocalFile::read_error(int error, ByteRange range) const {
  std::string message = std::string("read failed: ") + std::strerror(error);
  if (error == EIO) message += " (the device or the file server failed; look at the kernel log)";
  if (error == ESTALE) message += " (the file was removed on the file server)";
  return {.code = ErrorCode::kStorage,
          .message = std::move(message),
          .source = path_,
          .range = range,
          .system_errno = error};
}

Error LocalFile::truncated(ByteRange range, std::uint64_t end) const {
  return {.code = ErrorCode::kTruncated,
          .message = "the file ends at byte " + std::to_string(end) + ", inside the range that was asked for",
          .source = path_,
          .range = range,
          .expected = range.size(),
          .got = end > range.begin ? end - range.begin : 0};
}

}  // namespace weightstream
