#include "process_state.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

namespace weightstream::testing {
namespace {

std::size_t count_entries(const char* folder) {
  const std::filesystem::directory_iterator entries(folder);
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

// A sanitizer adds a thread of its own with the first that is started; it must not look like one left behind. And the
// kernel lists a thread for a moment after it was joined: it must not be counted among those that stay.
bool start_a_thread_and_see_it_go() {
  pid_t id = 0;
  std::thread([&id] { id = ::gettid(); }).join();
  const auto listed = "/proc/self/task/" + std::to_string(id);
  while (std::filesystem::exists(listed)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return true;
}

}  // namespace

std::size_t count_threads() {
  [[maybe_unused]] static const bool started = start_a_thread_and_see_it_go();
  return count_entries("/proc/self/task");
}
std::size_t count_descriptors() { return count_entries("/proc/self/fd"); }

std::uint64_t mapped_bytes() {
  std::uint64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

std::uint64_t resident_bytes(const std::byte* begin, std::uint64_t size) {
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  std::vector<unsigned char> pages((size + page - 1) / page);
  if (::mincore(const_cast<std::byte*>(begin), size, pages.data()) != 0) return UINT64_MAX;
  std::uint64_t resident = 0;
  for (const auto state : pages) resident += (state & 1U) * page;
  return resident;
}

bool eventually(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return true;
}

int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  if (child < 0 || ::waitpid(child, &status, 0) != child || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

bool refuse_io_uring() {
  struct sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog filter{static_cast<unsigned short>(std::size(program)), program};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

Watchdog::Watchdog() : thread_([this] { run(); }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::begin(std::string scenario) {
  const std::lock_guard lock(mutex_);
  scenario_ = std::move(scenario);
  deadline_ = std::chrono::steady_clock::now() + 2 * kPatience;
}

void Watchdog::run() {
  std::unique_lock lock(mutex_);
  while (!ends_) {
    if (std::chrono::steady_clock::now() > deadline_) {
      std::fprintf(stderr, "no end in sight: %s\n", scenario_.c_str());
      std::abort();
    }
    const auto until = deadline_;
    changed_.wait_until(lock, until, [this] { return ends_; });
  }
}

}  // namespace weightstream::testing
