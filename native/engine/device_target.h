// Where the items of a stream go when that is a device.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/result.h"
#include "device/accelerator.h"
#include "device/cufile.h"
#include "memory/slot_pool.h"

namespace weightstream {

struct DeviceTarget {
  std::shared_ptr<Accelerator> accelerator;
  std::shared_ptr<SlotPool> slots = SlotPool::of_process();
  std::uint64_t device_limit = 0;  // bytes allocated for items that are not handed out; 0: a default
  bool packed = true;              // small neighbours share memory; false where the memory is there already
  // Called when GPUDirect Storage is asked for.
  std::function<Result<std::shared_ptr<const CuFile>>()> cufile = CuFile::of_process;
};

}  // namespace weightstream
