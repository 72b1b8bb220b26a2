// The bytes that may be in flight or ready but not yet taken. Not thread-safe: the stream guards it with its own lock.
#pragma once

#include <algorithm>
#include <cstdint>

namespace weightstream {

class Budget {
 public:
  explicit Budget(std::uint64_t limit) : limit_(limit) {}

  // Takes `bytes` if they fit under the limit, or under `floor` where that is higher: the room that the oldest
  // unfinished tensor needs as a whole. Without it a tensor larger than the limit could never complete.
  [[nodiscard]] bool try_take(std::uint64_t bytes, std::uint64_t floor) {
    if (!fits(bytes, floor)) return false;
    used_ += bytes;
    peak_ = std::max(peak_, used_);
    return true;
  }
  // Whether try_take() would succeed.
  [[nodiscard]] bool fits(std::uint64_t bytes, std::uint64_t floor) const {
    return used_ + bytes <= std::max(limit_, floor);
  }
  void give_back(std::uint64_t bytes) { used_ -= bytes; }

  [[nodiscard]] std::uint64_t limit() const { return limit_; }
  [[nodiscard]] std::uint64_t used() const { return used_; }
  [[nodiscard]] std::uint64_t peak() const { return peak_; }

 private:
  std::uint64_t limit_;
  std::uint64_t used_ = 0;
  std::uint64_t peak_ = 0;
};

}  // namespace weightstream
