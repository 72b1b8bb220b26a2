// Which read is next: in plan order across all lanes, so that a bound on memory can never leave the oldest item without
// room. Not thread-safe: the stream guards it with its lock.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/lanes.h"
#include "engine/plan.h"
#include "engine/ready_items.h"
#include "memory/budget.h"

namespace weightstream {

class Admission {
 public:
  // All of them outlive it. `limit`: bytes of reads that are admitted and not given back.
  Admission(const Plan& plan, const Lanes& lanes, const ReadyItems& ready, std::uint64_t limit)
      : plan_(plan), lanes_(lanes), ready_(ready), budget_(limit) {}

  // The next read of `lane`, or nothing for now: the lane is woken when there may be something again.
  std::optional<std::uint32_t> next(Lane& lane);

  // Bytes of a read that belong to no item.
  void give_back(std::uint64_t bytes) { budget_.give_back(bytes); }
  // Bytes that the consumer took.
  void taken(std::uint64_t bytes) {
    budget_.give_back(bytes);
    out_of_room_ = false;
  }
  // Wakes the lanes that found nothing, if there is room now.
  void wake_starved();

  // Whether the last read that was looked at found no room, and the consumer took nothing since.
  [[nodiscard]] bool out_of_room() const { return out_of_room_; }
  [[nodiscard]] std::uint64_t peak() const { return budget_.peak(); }

  // Calls `drop(read)` for all that no reader pulled. None is left.
  template <typename Drop>
  void drop_rest(Drop drop) {
    for (const auto& lane : lanes_.all()) {
      for (const auto read : lane->admitted) drop(read);
      lane->admitted.clear();
    }
    while (next_read_ < plan_.reads.size()) drop(next_read_++);
  }

 private:
  [[nodiscard]] std::uint64_t room_for_oldest() const;

  const Plan& plan_;
  const Lanes& lanes_;
  const ReadyItems& ready_;
  Budget budget_;
  std::uint32_t next_read_ = 0;  // the first that is not admitted yet
  bool out_of_room_ = false;
};

}  // namespace weightstream
