// The part of io_uring that the uring reader uses, behind an interface so that tests can put faults in its place.
// Not thread-safe: a ring belongs to one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/result.h"

namespace weightstream {

class IoRing {
 public:
  struct Completion {
    std::uint64_t tag;
    std::int32_t result;  // bytes, or a negated errno
  };

  virtual ~IoRing() = default;
  // Queues a read. The ring has room for as many as `entries` at creation; more than that is a bug of the caller.
  virtual void queue_read(int fd, std::byte* into, std::uint32_t length, std::uint64_t offset, std::uint64_t tag) = 0;
  // Asks the kernel to give up on the read with this tag. It still completes, with -ECANCELED or its result.
  virtual void queue_cancel(std::uint64_t tag) = 0;
  // Submits what is queued and waits until at least one completion is there; appends all that are. 0 or an errno.
  virtual int submit_and_wait(std::vector<Completion>& completions) = 0;

  // Fails with kConfig when the kernel or a sandbox refuses io_uring; the message names the errno.
  static Result<std::unique_ptr<IoRing>> create(std::uint32_t entries);
};

}  // namespace weightstream
