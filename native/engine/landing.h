// Where the reads of a stream land, and how their bytes become those of its items: host memory that the items then
// live in (host_landing.*), or pinned memory on the way to a device (device_landing.*).
//
// A landing also bounds what is under way: a read is admitted, in the order of the plan, when there is room for it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "engine/lanes.h"
#include "engine/ready_items.h"
#include "memory/arena.h"
#include "storage/reader.h"

namespace weightstream {

class Landing {
 public:
  // Who has the items. Called by the threads of readers and landings, with no lock of the landing held.
  class Owner {
   public:
    virtual ~Owner() = default;
    // The bytes of a read are where its items are. Once for every read that arrived.
    virtual void landed(std::uint32_t read) = 0;
    // The landing cannot go on, since this read.
    virtual void failed(std::uint32_t read, Error error) = 0;
    // There may be room for a read that found none.
    virtual void made_room() = 0;
  };
  // What a read that finds no room waits for.
  enum class Bound : std::uint8_t { kConsumer, kDevice };

  virtual ~Landing() = default;

  // Before the first read, when the lanes are open.
  virtual Status open(const Lanes& lanes) = 0;

  // These are called under the owner's lock.

  // Takes the room that a read needs, if there is any.
  [[nodiscard]] virtual Result<bool> try_admit(std::uint32_t read) = 0;
  // Whether that is worth trying.
  [[nodiscard]] virtual bool may_admit(std::uint32_t read) const = 0;
  // What the last read that found no room waits for.
  [[nodiscard]] virtual Bound bound() const = 0;
  // The room that was made is not needed: no read is left that could take it.
  virtual void turn_down() {}
  // A read that was admitted will not be read, or its reader failed: nothing writes to its place any more.
  virtual void give_up(std::uint32_t /*read*/) {}
  // A read has landed. Returns whether that made room.
  virtual bool settle(std::uint32_t read) = 0;
  // An item is handed out: its bytes, where they are in host memory. Makes room.
  [[nodiscard]] virtual Lease hand_out(std::uint32_t item) = 0;
  // The most bytes of host memory that were under way, or ready but not handed out.
  [[nodiscard]] virtual std::uint64_t peak_host_bytes() const = 0;

  // And these are not.

  // Where the bytes of an admitted read go: congruent to its offset modulo 4 KiB.
  [[nodiscard]] virtual std::byte* place(std::uint32_t read) = 0;
  // Where they go on a device, if its reader writes there.
  [[nodiscard]] virtual std::vector<DevicePart> parts(std::uint32_t /*read*/) const { return {}; }
  // They are all there: landed() follows, now or later. A read that failed never arrives.
  virtual void arrived(std::uint32_t read) = 0;
  // No reader runs any more. Nobody is called after it, and what was handed out stays as it is. `unread`: the reads
  // that no reader took. `destinations`: what keeps memory allocated that was provided.
  virtual void close(const std::vector<std::uint32_t>& unread, const ReadyItems& ready,
                     std::shared_ptr<void> destinations) = 0;
};

}  // namespace weightstream
