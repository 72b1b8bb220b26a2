// The functions of cuFile, by their exported names.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "machine.h"

using fake::CuFileHandle;
using fake::Machine;
using fake::Needs;
using Lock = std::unique_lock<std::mutex>;

namespace {

// Statuses of cuFile begin here.
constexpr int kBase = 5000;
constexpr int kDriverNotInitialized = 5001;
constexpr int kCudaDriverError = 5011;
constexpr int kPointerInvalid = 5012;
constexpr int kInvalidFileType = 5018;
constexpr int kInvalidOpenFlag = 5019;
constexpr int kDirectNotSet = 5020;
constexpr int kInvalidValue = 5022;
constexpr int kDriverAlreadyOpen = 5026;
constexpr int kHandleNotRegistered = 5027;
constexpr int kHandleAlreadyRegistered = 5028;

struct Status {
  int error;
  int cuda_error;
};

struct Descriptor {
  int type;
  union {
    int fd;
    void* handle;
  } file;
  const void* operations;
};

struct Properties {
  struct {
    unsigned major_version;
    unsigned minor_version;
    std::size_t poll_thresh_size;
    std::size_t max_direct_io_size;
    unsigned status_flags;
    unsigned control_flags;
  } nvfs;
  unsigned feature_flags;
  unsigned max_device_cache_size;
  unsigned per_buffer_cache_size;
  unsigned max_device_pinned_mem_size;
  unsigned max_batch_io_size;
  unsigned max_batch_io_timeout_msecs;
};

Machine& machine() { return Machine::instance(); }

template <typename Body>
Status call(const char* name, Body body) {
  const int status = machine().call(name, Needs::kNothing, fake::current_context(), body);
  return status == 0 || status >= kBase ? Status{status, 0} : Status{kCudaDriverError, status};
}

CuFileHandle* find(void* handle) {
  auto& files = machine().cufile.files;
  const auto found =
      std::find_if(files.begin(), files.end(), [&](const CuFileHandle& file) { return &file == handle; });
  return found == files.end() ? nullptr : &*found;
}

bool still_open(const CuFileHandle& file) {
  struct stat status{};
  return ::fstat(file.fd, &status) == 0 && status.st_dev == file.device && status.st_ino == file.inode;
}

// What the file has there, read past the alignment that O_DIRECT asks for. Returns an errno.
int read_file(int fd, std::vector<std::byte>& into, off_t offset) {
  const int plain = ::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC);
  if (plain < 0) return errno;
  const ssize_t got = ::pread(plain, into.data(), into.size(), offset);
  const int error = errno;
  ::close(plain);
  if (got < 0) return error;
  into.resize(static_cast<std::size_t>(got));
  return 0;
}

}  // namespace

FAKE_EXPORT Status cuFileDriverOpen() {
  return call("cuFileDriverOpen", [](Lock&) {
    if (machine().cufile.open) return kDriverAlreadyOpen;
    machine().cufile.open = true;
    return 0;
  });
}

FAKE_EXPORT Status cuFileDriverGetProperties(Properties* properties) {
  return call("cuFileDriverGetProperties", [&](Lock&) {
    if (!machine().cufile.open) return kDriverNotInitialized;
    *properties = {};
    const auto version = machine().cufile.module_version;
    properties->nvfs.major_version = version == UINT32_MAX ? 0 : version;
    properties->nvfs.minor_version = properties->nvfs.major_version == 0 ? 0 : 17;
    if (version == UINT32_MAX) properties->feature_flags = 1U << 4;
    return 0;
  });
}

FAKE_EXPORT Status cuFileHandleRegister(void** handle, Descriptor* descriptor) {
  return call("cuFileHandleRegister", [&](Lock&) {
    auto& cufile = machine().cufile;
    if (!cufile.open) return kDriverNotInitialized;
    if (descriptor->type != 1 || descriptor->operations != nullptr) return kInvalidValue;
    const int fd = descriptor->file.fd;
    struct stat status{};
    if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) return kInvalidFileType;
    const int flags = ::fcntl(fd, F_GETFL);
    if ((flags & O_NONBLOCK) != 0) return kInvalidOpenFlag;
    if ((flags & O_DIRECT) == 0) return kDirectNotSet;
    for (const CuFileHandle& file : cufile.files) {
      if (file.fd != fd) continue;
      if (still_open(file)) return kHandleAlreadyRegistered;
      machine().violate("a file was closed before it was deregistered");
    }
    *handle = &cufile.files.emplace_back(CuFileHandle{.fd = fd, .device = status.st_dev, .inode = status.st_ino});
    return 0;
  });
}

FAKE_EXPORT void cuFileHandleDeregister(void* handle) {
  call("cuFileHandleDeregister", [&](Lock&) {
    const CuFileHandle* file = find(handle);
    if (file == nullptr) {
      machine().violate("a file was deregistered that is not registered");
      return 0;
    }
    if (file->reads_under_way > 0) machine().violate("a file was deregistered under a read");
    if (!still_open(*file)) machine().violate("a file was closed before it was deregistered");
    machine().cufile.files.remove_if([&](const CuFileHandle& other) { return &other == handle; });
    return 0;
  });
}

FAKE_EXPORT ssize_t cuFileRead(void* handle, void* base, std::size_t size, off_t offset, off_t base_offset) {
  ssize_t got = 0;
  fake::Context* current = fake::current_context();
  const int status = machine().call("cuFileRead", Needs::kContext, current, [&](Lock& lock) {
    auto& cufile = machine().cufile;
    CuFileHandle* file = find(handle);
    if (!cufile.open || file == nullptr) return kHandleNotRegistered;
    if (base_offset != 0) return kInvalidValue;  // of registered memory only
    if (!still_open(*file)) {
      machine().violate("a registered file was closed");
      return kHandleNotRegistered;
    }
    const auto to = reinterpret_cast<std::uint64_t>(base);
    if (!machine().check_free(to, size)) return kPointerInvalid;
    std::vector<std::byte> bytes(std::min<std::uint64_t>(size, cufile.most_bytes));
    const auto latency = cufile.latency;
    ++file->reads_under_way;
    cufile.most_at_once = std::max(cufile.most_at_once, ++cufile.at_once);
    lock.unlock();
    std::this_thread::sleep_for(latency);
    const int error = read_file(file->fd, bytes, offset);
    lock.lock();
    --cufile.at_once;
    --file->reads_under_way;
    if (error != 0) return error;
    if (!machine().check_free(to, bytes.size())) return kPointerInvalid;
    std::memcpy(base, bytes.data(), bytes.size());
    got = static_cast<ssize_t>(bytes.size());
    if (got > 0) ++cufile.reads;
    cufile.bytes += bytes.size();
    return 0;
  });
  if (status == 0) return got;
  if (status >= kBase) return -status;
  const bool of_cuda = status == fake::kNotInitialized || status == fake::kInvalidContext ||
                       (current != nullptr && current->lost == status);
  if (of_cuda) return -kCudaDriverError;
  errno = status;
  return -1;
}
