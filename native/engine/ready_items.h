// Which items of a plan are complete, and the order in which they are handed out. Not thread-safe: the stream guards it
// with its lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace weightstream {

class ReadyItems {
 public:
  // Items are handed out in the order of the plan, or else in the order in which they complete.
  ReadyItems(std::size_t items, bool file_order)
      : file_order_(file_order), complete_(items, false), taken_(items, false) {}

  void complete(std::uint32_t item) {
    complete_[item] = true;
    if (!file_order_) arrived_.push_back(item);
    while (oldest_incomplete_ < complete_.size() && complete_[oldest_incomplete_]) ++oldest_incomplete_;
  }

  // Whether there is something to take.
  [[nodiscard]] bool any() const {
    return file_order_ ? next_ < complete_.size() && complete_[next_] : !arrived_.empty();
  }
  // What take() would take. Precondition of both: any().
  [[nodiscard]] std::uint32_t front() const { return file_order_ ? next_ : arrived_.front(); }
  std::uint32_t take() {
    const auto item = front();
    if (file_order_) {
      ++next_;
    } else {
      arrived_.pop_front();
    }
    taken_[item] = true;
    ++taken_count_;
    return item;
  }

  [[nodiscard]] bool taken(std::uint32_t item) const { return taken_[item]; }
  [[nodiscard]] bool all_taken() const { return taken_count_ == taken_.size(); }
  // The first that is not complete; the number of items when all are.
  [[nodiscard]] std::uint32_t oldest_incomplete() const { return oldest_incomplete_; }

 private:
  bool file_order_;
  std::vector<bool> complete_;
  std::vector<bool> taken_;
  std::deque<std::uint32_t> arrived_;  // complete and not taken, unless in file order
  std::uint32_t next_ = 0;  // in file order: the next to take
  std::uint32_t oldest_incomplete_ = 0;
  std::size_t taken_count_ = 0;
};

}  // namespace weightstream
