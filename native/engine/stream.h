// A running plan: reads are admitted in plan order while the budget allows, land in arenas, and complete items, which
// next() hands out.
//
// Threads: one consumer calls next(); readers call pull() and complete() from threads of their own; close() and
// stats() may be called from anywhere. One lock guards the state; it is held for moments, never across a read.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "engine/plan.h"
#include "engine/readers.h"
#include "engine/sources.h"
#include "engine/stats.h"
#include "memory/arena.h"
#include "memory/block_pool.h"
#include "memory/budget.h"
#include "storage/reader.h"

namespace weightstream {

struct StreamOptions {
  bool file_order = false;         // hand out in exact file order; otherwise as items complete
  std::uint64_t memory_limit = 0;  // bytes in flight or ready but not taken; 0: a default that fits the machine
  std::uint32_t concurrency = 0;   // most reads in flight per reader; 0: found out while reading
  Backend backend = Backend::kAuto;
  ReaderFactory make_reader = weightstream::make_reader;  // tests put faults here
};

// A handed-out item: its index among the items that start() was given, and its bytes.
struct ReadyItem {
  std::uint32_t index = 0;
  Lease lease;  // empty for an item of no bytes
};

class Stream {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Next { kItems, kNotYet, kEnd };

  // Starts reading `items` (ascending by source and offset, not overlapping) of `sources`.
  static Result<std::unique_ptr<Stream>> start(std::shared_ptr<const Sources> sources, std::vector<PlanItem> items,
                                               StreamOptions options, Clock::time_point called);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Appends ready items to `batch`: at least one, more while they are small. Waits up to `patience` for the first.
  // The first error of any read ends the stream and is what every later call returns.
  Result<Next> next(std::vector<ReadyItem>& batch, Clock::duration patience);

  // Stops reading and joins every thread. Items that were handed out stay valid. Idempotent.
  void close();

  [[nodiscard]] StreamStats stats() const;
  [[nodiscard]] std::vector<LogLine> drain_log() { return log_.drain(); }
  // Per source that this stream reads: why its reader was chosen.
  [[nodiscard]] const std::vector<std::pair<std::uint32_t, std::string>>& reasons() const { return reasons_; }

 private:
  // The reads of one reader: a feed of their own, filled in plan order.
  class Lane;

  Stream(std::shared_ptr<const Sources> sources, Plan plan, StreamOptions options, Clock::time_point called);
  Status open_lanes(const StreamOptions& options);
  Result<ReaderChoice> choose_reader(std::uint32_t source, LocalProbe& probe) const;
  std::unique_ptr<Reader> make_reader(ReaderKind kind, std::uint32_t source, const StreamOptions& options);
  Status open_arena(std::uint32_t source, ReaderKind kind);
  void declare_holds();
  void keep_open(std::uint32_t source);
  [[nodiscard]] std::uint64_t room_for_oldest() const;
  void release_read(std::uint32_t read);
  Status start_readers(const StreamOptions& options);
  ReadRequest request_for(std::uint32_t read) const;
  std::optional<std::uint32_t> pull(Lane& lane);
  void complete(ReaderKind kind, std::uint32_t read, Result<ReadEffort> result);
  void finish_item(std::uint32_t item);
  [[nodiscard]] bool deliverable() const;
  std::uint32_t take_ready();
  void account_blocked();
  void wake_starved_lanes();

  // Fixed once start() returned.
  std::shared_ptr<const Sources> sources_;
  Plan plan_;
  bool file_order_;
  Clock::time_point called_;
  LogSink log_;
  std::vector<std::shared_ptr<Arena>> arenas_;                     // per source; null where nothing is wanted
  std::vector<std::shared_ptr<LocalFile::Handle>> open_handles_;   // per source: open while its reads go on
  std::vector<std::uint8_t> lane_of_source_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<std::pair<std::uint32_t, std::string>> reasons_;
  int process_;  // the pid that started the threads
  std::shared_ptr<BlockPool> pool_;

  mutable std::mutex mutex_;
  std::condition_variable ready_changed_;
  Budget budget_;
  std::uint32_t next_read_ = 0;  // the first that is not admitted yet
  std::vector<std::uint32_t> reads_left_of_source_;
  std::uint32_t oldest_item_ = 0;  // the first that is not complete
  std::deque<std::uint32_t> ready_;     // arrival order
  std::vector<bool> complete_;          // per item
  std::vector<bool> handed_out_;        // per item
  std::uint32_t next_item_ = 0;         // file order: the next to hand out
  std::uint32_t handed_out_count_ = 0;
  std::optional<Error> error_;
  bool closed_ = false;
  bool consumer_waits_ = false;
  bool consumer_inside_ = false;
  bool over_budget_ = false;                        // the last pull found no room
  std::optional<Clock::time_point> blocked_since_;  // reading waits for the consumer
  StreamStats stats_;
};

}  // namespace weightstream
