// Starts a thread of the core: named, and with every signal blocked, so that signals reach the program's own threads.
#pragma once

#include <pthread.h>
#include <signal.h>

#include <cstring>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "base/error.h"
#include "base/result.h"

namespace weightstream {

// `name` has at most 15 characters. Fails with kStorage when the system refuses another thread.
template <typename Body>
Status start_core_thread(std::thread& thread, const char* name, Body body) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);  // inherited by the new thread
  int error = 0;
  try {
    thread = std::thread(std::move(body));
    pthread_setname_np(thread.native_handle(), name);
  } catch (const std::system_error& refused) {
    error = refused.code().value();
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error == 0) return Ok{};
  return Error{.code = ErrorCode::kStorage,
               .message = std::string("cannot start a thread: ") + std::strerror(error) +
                          " (look at `ulimit -u` and the pids limit of the control group)",
               .system_errno = error};
}

}  // namespace weightstream
