// Starts a thread of the core: named, and with every signal blocked, so that signals reach the program's own threads.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstring>
#include <new>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/result.h"

namespace weightstream {

// Blocks the signals that are sent to a process, for as long as it lives: a thread that is started meanwhile inherits
// that. Those that a thread causes itself (a bad access) stay, for crash reporters.
class BlockSignals {
 public:
  BlockSignals() {
    sigset_t block;
    sigfillset(&block);
    for (const int own : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT}) sigdelset(&block, own);
    pthread_sigmask(SIG_SETMASK, &block, &before_);
  }
  ~BlockSignals() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  BlockSignals(const BlockSignals&) = delete;
  BlockSignals& operator=(const BlockSignals&) = delete;

 private:
  sigset_t before_;
};

// `name` has at most 15 characters. Fails with kStorage when the system refuses another thread.
template <typename Body>
Status start_core_thread(std::thread& thread, const char* name, Body body) {
  int error = 0;
  try {
    const BlockSignals block;
    thread = std::thread(std::move(body));
    pthread_setname_np(thread.native_handle(), name);
    return Ok{};
  } catch (const std::system_error& refused) {
    error = refused.code().value();
  } catch (const std::bad_alloc&) {
    error = ENOMEM;
  }
  return Error{.code = ErrorCode::kStorage,
               .message = std::string("cannot start a thread: ") + std::strerror(error) +
                          " (look at `ulimit -u` and the pids limit of the control group)",
               .system_errno = error};
}

}  // namespace weightstream
