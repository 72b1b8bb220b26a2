// Where the bytes of a stream land: an arena for each source that its plan reads, and who holds what of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "engine/plan.h"
#include "engine/sources.h"
#include "memory/arena.h"
#include "memory/block_pool.h"
#include "storage/reader_kind.h"

namespace weightstream {

// Thread-safety: prepare(), at(), release() and lease() may be called from any thread while the stream runs.
class StreamArenas {
 public:
  // The sources and the plan outlive it. Dead items' blocks of up to `kept_bytes` wait for the next read.
  StreamArenas(const Sources& sources, const Plan& plan, std::uint64_t kept_bytes);

  Status open(std::uint32_t source, ReaderKind kind);
  // Declares all that will be held, before the first read, so that a block outlives all who share it.
  void declare_holds();

  // Backs the memory of a read that is about to begin with blocks that are dead.
  void prepare(const PlanRead& read) const { arenas_[read.source]->recycle_into(read.range); }
  [[nodiscard]] std::byte* at(const PlanRead& read) const { return arenas_[read.source]->at(read.range.begin); }
  // The read is done, or never will be.
  void release(const PlanRead& read) const;
  // The bytes of an item; empty for an item of no bytes.
  [[nodiscard]] Lease lease(const PlanItem& item) const;

  // From now on dead blocks go back to the system.
  void end_reuse() { pool_->close(); }
  // Lets go of the arenas: they live on with the leases in them.
  void drop() { arenas_.assign(arenas_.size(), nullptr); }

 private:
  const Sources& sources_;
  const Plan& plan_;
  std::shared_ptr<BlockPool> pool_;
  std::vector<std::shared_ptr<Arena>> arenas_;  // per source; null where nothing is wanted
};

}  // namespace weightstream
