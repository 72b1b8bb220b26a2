// The copies of one stream to its device: what has been read is copied by a stream of the device's own, in the order in
// which it arrives, and each slot goes back when the copies out of it have ended. A thread submits them and looks for
// their events.
//
// A stream of the device holds about a thousand pieces of work; the driver waits, inside the call that queues one more,
// for whatever runs before. So fewer are queued at a time: the thread has other things to see to, and has to end when
// it is told to.
//
// A copy out of memory that is not pinned makes the thread wait until the driver has read it, and that for whatever is
// queued before. So it is queued when nothing is, and copies behind it wait here, where a close does not wait for them.
//
// Memory may be written to after the event that was recorded when it was allocated: the copies wait for it on the
// device, and only those that need it.
//
// Lock order: no lock is held while an owner is called or a slot is dropped.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"
#include "device/accelerator.h"
#include "device/copy_stream.h"
#include "engine/device_orders.h"
#include "engine/landing.h"
#include "memory/slot_pool.h"

namespace weightstream {

// The bytes of one read that are in a slot, and where they go.
struct DeviceCopy {
  struct Piece {
    std::uint64_t to = 0;
    const std::byte* from = nullptr;
    std::uint64_t bytes = 0;
    std::uint32_t order = 0;  // of DeviceCopies::after()
  };
  std::uint32_t read = 0;
  Slot slot;
  std::vector<Piece> pieces;
  bool last = true;  // no other copy of this read follows
};

class DeviceCopies {
 public:
  // The owner outlives it. `others_write`: somebody asks may_write(). Fails with kDevice, or kStorage when the system
  // refuses a thread.
  static Result<std::unique_ptr<DeviceCopies>> start(std::shared_ptr<Accelerator> accelerator, Landing::Owner& owner,
                                                     bool others_write);
  ~DeviceCopies();
  DeviceCopies(const DeviceCopies&) = delete;
  DeviceCopies& operator=(const DeviceCopies&) = delete;

  // Memory that was allocated on `stream` just now must not be written to before this place in it. Returns the order
  // that pieces into it carry.
  Result<std::uint32_t> after(ForeignStream stream) { return orders_.add(stream); }
  // Whether memory of that order may be written to by `read`, by other means than copies. If not, the owner is told
  // that there is room when it may. From any thread, with any lock but those that the owner's calls take before others.
  bool may_write(std::uint32_t order, std::uint32_t read);

  // Copies behind the caller's back; landed() says when. A failure is told by failed(), once; from then on nothing
  // lands, and slots are dropped as soon as they can be.
  void add(DeviceCopy copy);
  // Has the owner told that there is room. From any thread, with any lock but those that the owner's calls take.
  void wake();

  // Ends the thread. What the device still copies then, and does not end within moments, is left in limbo together with
  // `destinations`: whatever keeps the memory of all pieces allocated. Nobody is called after it. Once.
  void stop(std::shared_ptr<void> destinations);

 private:
  struct UnderWay {
    DeviceCopy copy;
    DeviceEvent event;  // behind its last piece
  };

  DeviceCopies(std::shared_ptr<Accelerator> accelerator, Landing::Owner& owner, std::unique_ptr<CopyStream> stream,
               bool others_write)
      : accelerator_(std::move(accelerator)),
        owner_(owner),
        stream_(std::move(stream)),
        orders_(accelerator_, others_write) {}
  void run();
  void fail(std::uint32_t read, Error error);
  void drop_ended();
  void wait_in_parts(DeviceCopy copy);
  bool submit_all();
  bool may_submit(const DeviceCopy& copy);
  void submit(DeviceCopy copy);
  Status queue(const DeviceCopy& copy, DeviceEvent& event);
  bool reap();
  bool look_for_orders();
  [[nodiscard]] bool under_way() const { return !under_way_.empty() || !unknown_.empty(); }
  Result<DeviceEvent> new_event();

  const std::shared_ptr<Accelerator> accelerator_;
  Landing::Owner& owner_;
  std::unique_ptr<CopyStream> stream_;
  DeviceOrders orders_;

  // Of the thread, and of stop() after it.
  std::deque<DeviceCopy> waiting_;  // to be submitted, in order
  std::deque<UnderWay> under_way_;  // oldest first, which also ends first
  std::vector<DeviceCopy> unknown_;  // without an event, because of a failure
  std::size_t queued_ = 0;  // pieces that are under way
  bool failed_ = false;
  std::vector<DeviceEvent> spare_events_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<DeviceCopy> added_;
  bool woken_ = false;
  bool looks_ = false;  // an order is wanted since
  bool stops_ = false;
  std::thread thread_;
};

}  // namespace weightstream
