#include "storage/local_probe.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "storage/io_ring.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
constexpr std::uint64_t kSamples = 32;
constexpr std::uint64_t kPagesPerSample = 16;
// From this part on, memory copies beat reading everything from the device again.
constexpr double kMostlyCached = 0.5;

// cachestat(2), Linux 6.5; not in the C library's headers yet.
constexpr long kCachestat = 451;
struct CachestatRange {
  std::uint64_t offset;
  std::uint64_t length;
};
struct Cachestat {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

struct Filesystem {
  long magic;
  const char* name;
  bool direct;  // O_DIRECT reads from a device of this machine
  bool stacked;  // its files' pages are cached under another file: cachestat sees none
  bool prompt;   // a device or the memory of this machine answers
};

constexpr std::array kFilesystems = {
    Filesystem{0xEF53, "ext4", true, false, true},          Filesystem{0x58465342, "xfs", true, false, true},
    Filesystem{0x9123683E, "btrfs", true, false, true},     Filesystem{0xF2F52010, "f2fs", true, false, true},
    Filesystem{0x794C7630, "overlayfs", true, true, false}, Filesystem{0x01021994, "tmpfs", false, false, true},
    Filesystem{0x858458F6, "ramfs", false, false, true},    Filesystem{0x6969, "nfs", false, false, false},
    Filesystem{0x0BD00BD0, "lustre", false, false, false},  Filesystem{0x65735546, "fuse", false, false, false},
    Filesystem{0x00C36400, "ceph", false, false, false},    Filesystem{0xFF534D42, "cifs", false, false, false},
    Filesystem{0xFE534D42, "smb3", false, false, false},    Filesystem{0x01021997, "9p", false, false, false},
    Filesystem{0x2FC12FC1, "zfs", false, false, true},      Filesystem{0x47504653, "gpfs", false, false, false},
};
constexpr Filesystem kUnknownFilesystem{0, "a filesystem without a known name", false, false, false};

Filesystem filesystem_of(int fd) {
  struct statfs status{};
  if (::fstatfs(fd, &status) != 0) return kUnknownFilesystem;
  const auto magic = static_cast<long>(static_cast<std::uint32_t>(status.f_type));
  for (const auto& filesystem : kFilesystems) {
    if (filesystem.magic == magic) return filesystem;
  }
  return kUnknownFilesystem;
}

// Asks `is_cached` of one place in each of some equal parts of a file, for the page at `within`, 0 to 1, of that part.
template <typename Within, typename IsCached>
double sample(std::uint64_t size, Within within, IsCached is_cached) {
  const std::uint64_t pages = size / kPageBytes;
  const std::uint64_t samples = std::min(kSamples, std::max<std::uint64_t>(pages / kPagesPerSample, 1));
  double cached = 0;
  for (std::uint64_t i = 0; i < samples; ++i) {
    const auto page = static_cast<std::uint64_t>(static_cast<double>(pages) * (static_cast<double>(i) + within()) /
                                                 static_cast<double>(samples));
    const double part = is_cached(page * kPageBytes);
    if (part < 0) return part;
    cached += part;
  }
  return cached / static_cast<double>(samples);
}

double cached_by_cachestat(int fd, std::uint64_t size) {
  // In the middle of each part: the first MiB, which the header read has warmed, does not decide.
  const auto middle = [] { return 0.5; };
  return sample(size, middle, [&](std::uint64_t offset) {
    return cached_part(fd, offset, std::min(kPagesPerSample * kPageBytes, size - offset));
  });
}

ReaderChoice forced(ReaderKind kind, const char* backend, const char* means) {
  return {kind, std::string("backend=\"") + backend + "\" was asked for: " + means};
}

std::string percent(double fraction) { return std::to_string(std::lround(fraction * 100)) + "%"; }

}  // namespace

bool has_device(int fd) { return filesystem_of(fd).direct; }

double cached_part(int fd, std::uint64_t offset, std::uint64_t length) {
  CachestatRange range{offset, length};
  Cachestat status{};
  if (::syscall(kCachestat, fd, &range, &status, 0) != 0) return -1.0;
  return std::min(1.0, static_cast<double>(status.cached * kPageBytes) / static_cast<double>(length));
}

// A read that must not wait succeeds only from the cache. Where it fails, the kernel begins to read that page.
double cached_without_waiting(int fd, std::uint64_t size) {
  if (size == 0) return 1.0;
  std::minstd_rand generator(static_cast<std::uint32_t>(std::chrono::steady_clock::now().time_since_epoch().count()));
  generator.discard(1);  // seeds that are close give first numbers that are
  std::uniform_real_distribution<double> anywhere(0, 1);
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
  const auto place = [&] { return anywhere(generator); };
  const double cached = sample(size, place, [&](std::uint64_t offset) {
    char byte = 0;
    struct iovec into{&byte, 1};
    const auto got = ::preadv2(fd, &into, 1, static_cast<off_t>(offset), RWF_NOWAIT);
    if (got == 1) return 1.0;
    return got < 0 && errno == EAGAIN ? 0.0 : -1.0;
  });
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_NORMAL);
  return cached;
}

double cached_fraction(int fd, std::uint64_t size) {
  if (size == 0) return 1.0;
  if (!filesystem_of(fd).stacked) {
    const double cached = cached_by_cachestat(fd, size);
    if (cached >= 0) return cached;
  }
  return cached_without_waiting(fd, size);
}

const Status& LocalProbe::ring() {
  if (!ring_) {
    auto made = IoRing::create(2);
    ring_ = made.ok() ? Status(Ok{}) : Status(std::move(made).error());
  }
  return *ring_;
}

Result<ReaderChoice> LocalProbe::choose(const LocalFile& file) {
  if (backend_ == Backend::kPread) return forced(ReaderKind::kPread, "pread", "parallel pread");
  if (backend_ == Backend::kMmap) return forced(ReaderKind::kMmap, "mmap", "a private mapping");
  if (backend_ == Backend::kUring) {
    if (ring().ok()) return forced(ReaderKind::kUring, "uring", "io_uring");
    Error error = ring().error();
    error.message = "backend=\"uring\" cannot work: " + error.message + "; use backend=\"auto\"";
    return error;
  }

  auto handle = file.handle();
  if (!handle) return std::move(handle).error();
  const int fd = (*handle)->buffered.get();
  const Filesystem filesystem = filesystem_of(fd);
  const std::string on = std::string(" on ") + filesystem.name;
  if (!filesystem.direct) return ReaderChoice{ReaderKind::kPread, "file" + on + ": parallel pread"};
  const double cached = cached_fraction(fd, file.size());
  if (cached >= kMostlyCached) {
    return ReaderChoice{ReaderKind::kPread,
                        percent(cached) + " of the file" + on + " is in the page cache: parallel pread"};
  }
  if (const int refused = file.open_direct(**handle); refused != 0) {
    return ReaderChoice{ReaderKind::kPread,
                        "O_DIRECT is refused" + on + " (" + std::strerror(refused) + "): parallel pread", true};
  }
  if (!ring().ok()) return ReaderChoice{ReaderKind::kPread, ring().error().message + ": parallel pread", true};
  return ReaderChoice{ReaderKind::kUring, "cold file" + on + ": io_uring with O_DIRECT"};
}

Result<ReaderChoice> LocalProbe::choose_for_one_read(const LocalFile& file) {
  if (backend_ != Backend::kAuto) return choose(file);
  auto handle = file.handle();
  if (!handle) return std::move(handle).error();
  const Filesystem filesystem = filesystem_of((*handle)->buffered.get());
  // A file server may keep a read waiting for as long as it likes; then the caller has to stay interruptible.
  if (!filesystem.prompt) return choose(file);
  return ReaderChoice{ReaderKind::kInline,
                      std::string("a single read on ") + filesystem.name + ": pread by the caller"};
}

}  // namespace weightstream
