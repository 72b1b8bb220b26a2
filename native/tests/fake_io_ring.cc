#include "fake_io_ring.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>

namespace weightstream::testing {

void FakeIoRing::queue_read(int fd, std::byte* into, std::uint32_t length, std::uint64_t offset, std::uint64_t tag) {
  struct stat status{};
  ::fstat(fd, &status);
  const bool direct = (::fcntl(fd, F_GETFL) & O_DIRECT) != 0;
  const Read read{fd, into, length, offset, tag, direct};
  if (!S_ISREG(status.st_mode)) {
    wakes_.push_back(read);
    return;
  }
  if (direct) {
    EXPECT_EQ(offset % 4096, 0U);
    EXPECT_EQ(length % 4096, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(into) % 4096, 0U);
  }
  const std::int32_t result = script_.result(read);
  if (result == kHangs) {
    hanging_.push_back(read);
  } else if (result <= 0) {
    done_.push_back({tag, result});
  } else {
    Read part = read;
    part.length = std::min(read.length, static_cast<std::uint32_t>(result));
    done_.push_back({tag, deliver(part)});
  }
}

// Through a descriptor of its own: an odd length cannot be read directly.
std::int32_t FakeIoRing::deliver(const Read& read) const {
  const int fd = ::open(("/proc/self/fd/" + std::to_string(read.fd)).c_str(), O_RDONLY | O_CLOEXEC);
  const auto got = ::pread(fd, read.into, read.length, static_cast<off_t>(read.offset));
  const int error = errno;
  ::close(fd);
  return static_cast<std::int32_t>(got < 0 ? -error : got);
}

void FakeIoRing::queue_cancel(std::uint64_t tag) {
  const auto found = std::find_if(hanging_.begin(), hanging_.end(), [&](const Read& read) { return read.tag == tag; });
  if (found == hanging_.end()) return;
  done_.push_back({tag, -ECANCELED});
  hanging_.erase(found);
}

int FakeIoRing::submit_and_wait(std::vector<Completion>& completions) {
  if (++submits_ == script_.breaks_at_submit) return EIO;
  if (script_.newest_first) std::reverse(done_.begin(), done_.end());
  completions.insert(completions.end(), done_.begin(), done_.end());
  done_.clear();
  if (wakes_.empty()) return 0;
  // With nothing else to report, wait for the eventfd as the kernel would.
  struct pollfd wake{wakes_.front().fd, POLLIN, 0};
  if (::poll(&wake, 1, completions.empty() ? -1 : 0) == 1) {
    const auto got = ::read(wakes_.front().fd, wakes_.front().into, wakes_.front().length);
    completions.push_back({wakes_.front().tag, static_cast<std::int32_t>(got)});
    wakes_.erase(wakes_.begin());
  }
  return 0;
}

}  // namespace weightstream::testing
