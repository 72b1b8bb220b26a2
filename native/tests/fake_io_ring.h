// An IoRing that does what a script says instead of what the kernel would: short completions, errors, completions out
// of order, reads that hang until they are cancelled, a ring that breaks. Bytes come from the real file.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "storage/io_ring.h"

namespace weightstream::testing {

class FakeIoRing final : public IoRing {
 public:
  // A result that never comes unless the read is cancelled.
  static constexpr std::int32_t kHangs = INT32_MIN;

  struct Read {
    int fd;
    std::byte* into;
    std::uint32_t length;
    std::uint64_t offset;
    std::uint64_t tag;
    bool direct;  // the descriptor bypasses the page cache
  };

  struct Script {
    // Bytes to deliver at most, a negated errno, or kHangs. Called once for each read that is queued.
    std::function<std::int32_t(const Read&)> result = [](const Read& read) {
      return static_cast<std::int32_t>(read.length);
    };
    bool newest_first = false;           // the order in which reads complete
    std::uint32_t breaks_at_submit = 0;  // the k-th submission fails with EIO; 0: none
  };

  explicit FakeIoRing(Script script) : script_(std::move(script)) {}

  void queue_read(int fd, std::byte* into, std::uint32_t length, std::uint64_t offset, std::uint64_t tag) override;
  void queue_cancel(std::uint64_t tag) override;
  int submit_and_wait(std::vector<Completion>& completions) override;

 private:
  std::int32_t deliver(const Read& read) const;

  Script script_;
  std::uint32_t submits_ = 0;
  std::vector<Completion> done_;
  std::vector<Read> hanging_;
  std::vector<Read> wakes_;  // reads of an eventfd
};

}  // namespace weightstream::testing
