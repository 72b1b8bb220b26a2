#include "storage/io_ring.h"

#include <liburing.h>

#include <cassert>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

namespace weightstream {
namespace {

// Completions of cancel requests themselves carry this tag and are swallowed.
constexpr std::uint64_t kCancelTag = UINT64_MAX;
// A kernel that takes no request for about ten seconds will not take one later.
constexpr auto kRefusalPause = std::chrono::milliseconds(1);
constexpr std::uint32_t kMostRefusals = 10'000;

class LinuxIoRing final : public IoRing {
 public:
  int open(std::uint32_t entries) {
    const int result = io_uring_queue_init(entries, &ring_, 0);
    opened_ = result == 0;
    return -result;
  }
  LinuxIoRing() = default;
  LinuxIoRing(const LinuxIoRing&) = delete;
  LinuxIoRing& operator=(const LinuxIoRing&) = delete;
  ~LinuxIoRing() override {
    if (opened_) io_uring_queue_exit(&ring_);
  }

  void queue_read(int fd, std::byte* into, std::uint32_t length, std::uint64_t offset, std::uint64_t tag) override {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_read(entry, fd, into, length, offset);
    io_uring_sqe_set_data64(entry, tag);
  }

  void queue_cancel(std::uint64_t tag) override {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_cancel64(entry, tag, 0);
    io_uring_sqe_set_data64(entry, kCancelTag);
  }

  int submit_and_wait(std::vector<Completion>& completions) override {
    const int result = io_uring_submit_and_wait(&ring_, 1);
    if (result == -EAGAIN || result == -EBUSY) {
      // The kernel is short of memory for requests for the moment.
      if (++refusals_ > kMostRefusals) return -result;
      std::this_thread::sleep_for(kRefusalPause);
    } else if (result >= 0) {
      refusals_ = 0;
    } else if (result != -EINTR) {
      return -result;
    }
    io_uring_cqe* entry = nullptr;
    unsigned head = 0;
    unsigned count = 0;
    io_uring_for_each_cqe(&ring_, head, entry) {
      ++count;
      const std::uint64_t tag = io_uring_cqe_get_data64(entry);
      if (tag != kCancelTag) completions.push_back({tag, entry->res});
    }
    io_uring_cq_advance(&ring_, count);
    return 0;
  }

 private:
  io_uring_sqe* next_entry() {
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    assert(entry != nullptr);  // the caller keeps to the number of entries
    return entry;
  }

  io_uring ring_{};
  bool opened_ = false;
  std::uint32_t refusals_ = 0;  // in a row
};

}  // namespace

Result<std::unique_ptr<IoRing>> IoRing::create(std::uint32_t entries) {
  auto ring = std::make_unique<LinuxIoRing>();
  const int error = ring->open(entries);
  if (error == 0) return std::unique_ptr<IoRing>(std::move(ring));
  std::string message = std::string("io_uring is refused here: ") + std::strerror(error);
  if (error == EPERM || error == EACCES) message += " (a seccomp profile or kernel.io_uring_disabled)";
  if (error == ENOSYS) message += " (the kernel was built without it)";
  if (error == ENOMEM) message += " (raise `ulimit -l`)";
  return Error{.code = ErrorCode::kConfig, .message = std::move(message), .system_errno = error};
}

}  // namespace weightstream
