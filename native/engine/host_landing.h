// Reads land in arenas, where their items then live: nothing is copied, so a read has landed when it arrived.
//
// The budget counts a read from its admission until the items that it covers are handed out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "engine/landing.h"
#include "engine/plan.h"
#include "engine/sources.h"
#include "memory/arena.h"
#include "memory/block_pool.h"
#include "memory/budget.h"

namespace weightstream {

class HostLanding final : public Landing {
 public:
  // All of them outlive it. Of `memory_limit`, a part is for the blocks of dead items that wait for the next read.
  HostLanding(Owner& owner, const Sources& sources, const Plan& plan, const ReadyItems& ready,
              std::uint64_t memory_limit);

  Status open(const Lanes& lanes) override;
  Result<bool> try_admit(std::uint32_t read) override;
  [[nodiscard]] bool may_admit(std::uint32_t read) const override;
  [[nodiscard]] Bound bound() const override { return Bound::kConsumer; }
  bool settle(std::uint32_t read) override;
  Lease hand_out(std::uint32_t item) override;
  [[nodiscard]] std::uint64_t peak_host_bytes() const override { return budget_.peak(); }
  std::byte* place(std::uint32_t read) override;
  void arrived(std::uint32_t read) override;
  void close(const std::vector<std::uint32_t>& unread, const ReadyItems& ready,
             std::shared_ptr<void> destinations) override;

 private:
  Status open(std::uint32_t source, ReaderKind kind);
  void declare_holds();
  void release(std::uint32_t read) const;
  [[nodiscard]] Lease lease(std::uint32_t item) const;
  [[nodiscard]] std::uint64_t room_for_oldest() const;

  Owner& owner_;
  const Sources& sources_;
  const Plan& plan_;
  const ReadyItems& ready_;
  Budget budget_;
  std::shared_ptr<BlockPool> pool_;
  std::vector<std::shared_ptr<Arena>> arenas_;  // per source; null where nothing is wanted
};

}  // namespace weightstream
