// A consumer of streams to the fake device: it allocates what is asked for, keeps a kernel busy with each allocation
// until the copies may begin, and checks every byte on the device at the moment of hand-over.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "device/accelerator.h"
#include "engine/stream.h"
#include "fake_driver/loaded_fake.h"
#include "process_state.h"
#include "stream_harness.h"
#include "test_files.h"

namespace weightstream::testing {

class DeviceStreamTest : public FakeDeviceTest {
 protected:
  void SetUp() override;
  void TearDown() override;

  // Streams of all files of checkpoint_, in slots of their own pool.
  [[nodiscard]] Result<std::unique_ptr<Stream>> start_stream(const StreamOptions& options);
  [[nodiscard]] StreamOptions options_for_device(std::uint64_t slots = 4, std::uint64_t device_limit = 0) const;

  // What one consumer does with one stream.
  struct Consumer {
    std::uint64_t at_a_time = 4 * kMiB;  // of the memory that is allocated
    std::uint32_t kernel_us = 200;       // that each allocation is used by, before copies may be written to it
    bool frees = true;                   // drops items at once
    std::function<bool(std::uint32_t item)> with = {};  // false: stop
  };
  Consumed consume_on_device(Stream& stream, const Consumer& consumer);
  Consumed consume_on_device(Stream& stream) { return consume_on_device(stream, {}); }
  // Gives memory to what is due, once. Whether anything was.
  bool top_up(Stream& stream, const Consumer& consumer);
  void check_item(const Stream& stream, std::uint32_t item);
  // Frees all that the tests allocated, when the stream is closed.
  void free_memory();

  // No stream, event, pinned byte or context is left.
  void expect_nothing_left();

  TempDir folder_;
  TestCheckpoint checkpoint_;
  std::shared_ptr<Accelerator> device_;
  std::shared_ptr<SlotPool> slots_;
  ForeignStream current_ = 0;  // of the consumer
  std::vector<std::uint64_t> memory_;  // of the groups, in order; 0 where it was freed
  std::vector<std::uint32_t> left_;    // items of the groups that were not handed out
  Watchdog watchdog_;
};

}  // namespace weightstream::testing
