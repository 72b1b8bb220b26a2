// A running plan: reads are admitted in plan order while there is room, land in host memory or on a device, and
// complete items, which next() hands out.
//
// Threads: one consumer calls next(); readers call pull() and complete() from threads of their own; close() and
// stats() may be called from anywhere. One lock guards the state; it is held for moments, never across a read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "device/copy_stream.h"
#include "engine/admission.h"
#include "engine/device_landing.h"
#include "engine/landing.h"
#include "engine/lanes.h"
#include "engine/plan.h"
#include "engine/ready_items.h"
#include "engine/sources.h"
#include "engine/stats.h"
#include "engine/stream_options.h"
#include "engine/trace.h"
#include "memory/arena.h"

namespace weightstream {

// A handed-out item: its index among the items that start() was given, and its bytes.
struct ReadyItem {
  std::uint32_t index = 0;
  Lease lease;  // empty for an item of no bytes, or on a device
};

class Stream final : private Lane::Owner, private Landing::Owner {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Next { kItems, kNotYet, kEnd };

  // Starts reading `items` (ascending by source and offset, not overlapping) of `sources`.
  static Result<std::unique_ptr<Stream>> start(std::shared_ptr<const Sources> sources, std::vector<PlanItem> items,
                                               StreamOptions options, Clock::time_point called);
  ~Stream() override;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Appends ready items to `batch`: at least one, more while they are small. Waits up to `patience` for the first.
  // The first error of any read ends the stream: what was ready before it is handed out, then every call returns it.
  Result<Next> next(std::vector<ReadyItem>& batch, Clock::duration patience);

  // What follows is for streams to a device.

  // The groups that share memory; null where items are handed out in host memory: no device was asked for, or it is
  // not worth it for a single read.
  [[nodiscard]] const DeviceGroups* device_groups() const { return device_ ? &device_->groups() : nullptr; }
  // As start() was given them.
  [[nodiscard]] const std::vector<PlanItem>& items() const { return plan_.items; }
  // The groups that should get memory now, about `most_bytes` of them at a time. Nothing is read for others.
  [[nodiscard]] DeviceGroups::Span due(std::uint64_t most_bytes) const;
  // Gives memory to the groups from due().begin on, in order: an address for each. It was allocated on the foreign
  // stream `allocated_on`, and must stay until its items are handed out, or see close(). After an error nothing was
  // taken: kClosed when the stream is closed, and any other is the stream's.
  Status provide(const std::vector<std::uint64_t>& addresses, ForeignStream allocated_on);

  // Stops reading and joins every thread. Items that were handed out stay valid. Idempotent; returns when it is done,
  // also when another thread does it. `destinations` keeps memory allocated that was provided: it is dropped when
  // nothing writes there any more, which may be later, by another thread.
  void close(std::shared_ptr<void> destinations = nullptr);

  [[nodiscard]] StreamStats stats() const;
  // So far, if StreamOptions::trace asked for it.
  [[nodiscard]] std::vector<TraceEvent> trace() const;
  [[nodiscard]] const PlanRead& read(std::uint32_t index) const { return plan_.reads[index]; }
  [[nodiscard]] std::vector<LogLine> drain_log() { return log_.drain(); }
  // Per source that this stream reads: why its reader was chosen.
  [[nodiscard]] const Lanes::Reasons& reasons() const { return lanes_.reasons(); }
  // The device, and why copies to it start from memory that is not pinned; nothing where they do not.
  [[nodiscard]] std::optional<std::pair<std::string, std::string>> not_pinned() const;

 private:
  Stream(std::shared_ptr<const Sources> sources, Plan plan, const StreamOptions& options, Clock::time_point called);
  Status begin(const StreamOptions& options);
  std::unique_ptr<Landing> make_landing(const StreamOptions& options);
  std::optional<ReadRequest> pull(Lane& lane) override;
  void complete(const Lane& lane, std::uint32_t read, Result<ReadEffort> result) override;
  void started(Lane& lane) override;
  void landed(std::uint32_t read) override;
  void failed(std::uint32_t read, Error error) override;
  void made_room() override;
  std::optional<std::uint32_t> admit(Lane& lane);
  void keep_open(std::uint32_t source);
  void fail(Error error);
  void account_waits();

  // Time that passes while a condition holds.
  struct Span {
    std::optional<Clock::time_point> since;
    void set(bool holds, double& seconds);
    [[nodiscard]] double so_far(Clock::time_point now) const;
  };

  // Fixed once start() returned.
  std::shared_ptr<const Sources> sources_;
  Plan plan_;
  Clock::time_point called_;
  LogSink log_;
  Lanes lanes_;
  int process_;  // the pid that started the threads

  std::mutex closing_;  // taken before mutex_
  mutable std::mutex mutex_;
  std::condition_variable ready_changed_;
  ReadyItems ready_;
  DeviceLanding* device_ = nullptr;  // the landing, where it is a device
  std::unique_ptr<Landing> landing_;
  Admission admission_;
  std::vector<std::uint32_t> reads_left_of_source_;
  std::vector<std::shared_ptr<LocalFile::Handle>> open_handles_;  // per source: open while its reads go on
  std::optional<Error> error_;
  bool closed_ = false;
  bool consumer_waits_ = false;
  bool consumer_inside_ = false;
  std::uint64_t reading_ = 0;  // reads that readers have
  std::uint64_t landing_reads_ = 0;  // that arrived, and have not landed
  Span blocked_;  // reading waits for the consumer
  Span device_bound_;  // the consumer waits for copies
  StreamStats stats_;
  std::optional<Trace> trace_;
};

}  // namespace weightstream
