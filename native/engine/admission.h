// Which read comes next: in the order of the plan over all lanes, as far as there is room. Not thread-safe: the stream
// guards it with its lock.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "base/result.h"
#include "engine/landing.h"
#include "engine/lanes.h"
#include "engine/plan.h"

namespace weightstream {

class Admission {
 public:
  // All of them outlive it.
  Admission(const Plan& plan, const Lanes& lanes, Landing& landing) : plan_(plan), lanes_(lanes), landing_(landing) {}

  // The next read of `lane`, or nothing for now: the lane is woken when there may be something again.
  Result<std::optional<std::uint32_t>> next(Lane& lane);

  // Wakes the lanes that found nothing, if there is room now.
  void wake_starved();
  // The landing has room: for the next read, or it is turned down.
  void offer_room();

  // Whether the last read that was looked at found no room, and none was made since.
  [[nodiscard]] bool out_of_room() const { return out_of_room_; }
  void made_room() { out_of_room_ = false; }

  // Those that are admitted, but that no reader took. None of them is left.
  [[nodiscard]] std::vector<std::uint32_t> take_admitted();
  // All that no reader took. None is left.
  [[nodiscard]] std::vector<std::uint32_t> take_rest();

 private:
  const Plan& plan_;
  const Lanes& lanes_;
  Landing& landing_;
  std::uint32_t next_read_ = 0;  // the first that is not admitted yet
  bool out_of_room_ = false;
};

}  // namespace weightstream
