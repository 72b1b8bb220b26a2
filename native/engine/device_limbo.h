// Copies that outlived their stream: a kernel of somebody runs before them for long, or the device hangs. What they
// read and write stays until they have ended, without anybody waiting for that.
//
// Each has a thread, which outlives everybody: at the end of the process nothing is left to be freed in order.
#pragma once

#include <memory>
#include <vector>

#include "device/accelerator.h"
#include "device/copy_stream.h"
#include "memory/slot_pool.h"

namespace weightstream {

// What copies use. Dropped when they have ended, by any thread.
struct CopiesInLimbo {
  std::shared_ptr<Accelerator> accelerator;
  std::unique_ptr<CopyStream> stream;
  std::vector<Slot> slots;
  std::shared_ptr<void> destinations;  // whatever keeps them allocated

  // Whether all of them have ended. A query may fail for a while (somebody captures a graph, say).
  [[nodiscard]] bool over() const {
    if (accelerator->lost()) return true;  // nothing runs there any more
    const auto idle = stream->idle();
    return idle && *idle;
  }
};

void leave_in_limbo(CopiesInLimbo copies);

}  // namespace weightstream
