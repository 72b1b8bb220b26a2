// The lanes of a stream: which reader reads which source. One lane for each kind of reader that the sources need, so
// that a cold shard goes through io_uring beside a warm one through pread, and local shards beside remote ones.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "device/cufile.h"
#include "engine/gds_probe.h"
#include "engine/plan.h"
#include "engine/sources.h"
#include "engine/stream_options.h"
#include "storage/reader.h"

namespace weightstream {

// The reads of one reader: a feed of their own, filled in plan order.
struct Lane final : ReadFeed {
  // Has the reads. Called by the threads of the readers.
  class Owner {
   public:
    virtual ~Owner() = default;
    virtual std::optional<ReadRequest> pull(Lane& lane) = 0;
    virtual void complete(const Lane& lane, std::uint32_t read, Result<ReadEffort> result) = 0;
    // The reader's start() is over.
    virtual void started(Lane& lane) = 0;
  };

  Lane(Owner& its_owner, ReaderKind of_kind, std::unique_ptr<Reader> its_reader)
      : owner(its_owner), kind(of_kind), reader(std::move(its_reader)) {}
  std::optional<ReadRequest> pull() override { return owner.pull(*this); }
  void complete(const ReadRequest& request, Result<ReadEffort> result) override {
    owner.complete(*this, request.id, std::move(result));
  }

  // Under the owner's lock. Some of a reader's threads pull and complete while others are yet to be made: it must not
  // be woken before its start() is over, and is woken then.
  void wake_if_starved() {
    if (!starved || !may_be_woken) return;
    starved = false;
    reader->wake();
  }

  Owner& owner;
  ReaderKind kind;
  std::unique_ptr<Reader> reader;
  // Under the owner's lock:
  std::deque<std::uint32_t> admitted;  // reads of this lane that another lane's pull came across
  bool starved = false;  // its last pull found nothing
  bool may_be_woken = false;
};

class Lanes {
 public:
  using Reasons = std::vector<std::pair<std::uint32_t, std::string>>;

  // Both outlive the lanes.
  Lanes(const Sources& sources, LogSink& log) : sources_(sources), log_(log), of_source_(sources.size(), nullptr) {}

  // Chooses the reader of each source that the plan reads.
  Status open(const Plan& plan, const StreamOptions& options, Lane::Owner& owner);
  // Starts the readers. A ring that does not start becomes a pread pool, unless the ring was asked for by name.
  Status start(const StreamOptions& options);
  // No reader runs afterwards, with its threads, descriptors and buffers gone.
  void stop();
  // Leaves the readers to the process that they run in.
  void abandon();

  // Precondition: the plan reads the source.
  [[nodiscard]] Lane& of(std::uint32_t source) const { return *of_source_[source]; }
  [[nodiscard]] const std::vector<std::unique_ptr<Lane>>& all() const { return lanes_; }
  // Per source that is read: why its reader was chosen.
  [[nodiscard]] const Reasons& reasons() const { return reasons_; }

 private:
  Result<ReaderChoice> choose(std::uint32_t source, bool only_read, LocalProbe& probe) const;
  Result<ReaderChoice> choose_gds(std::uint32_t source, bool only_read, LocalProbe& probe, GdsProbe& gds);
  std::unique_ptr<Reader> make_reader(ReaderKind kind, const HttpObject* object, const StreamOptions& options);

  const Sources& sources_;
  LogSink& log_;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::vector<Lane*> of_source_;  // null where nothing is read
  Reasons reasons_;
  std::shared_ptr<const CuFile> cufile_;  // of the gds lane
};

}  // namespace weightstream
