// Checkpoints and consumers for tests of streams: files of pattern, and a consumer that checks every byte it is given.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/checkpoint.h"
#include "engine/stream.h"
#include "test_files.h"

namespace weightstream::testing {

inline constexpr std::uint64_t kKiB = 1 << 10;
inline constexpr std::uint64_t kMiB = 1 << 20;
// So small that reads are cut as small as the engine cuts them.
inline constexpr std::uint64_t kTinyLimit = kMiB;

// An opened checkpoint, what is in its files, and the items that ask for all of it.
struct TestCheckpoint {
  std::vector<MadeFile> files;
  std::shared_ptr<const Checkpoint> checkpoint;
  std::vector<PlanItem> items;

  [[nodiscard]] std::uint64_t largest_span(std::uint64_t read_bytes) const;
};

// For the names of tests.
[[nodiscard]] std::string name(Backend backend);

// Writes a file for each list of sizes into `folder` and opens all of them as one checkpoint.
TestCheckpoint make_checkpoint(const TempDir& folder, const std::vector<std::vector<std::uint64_t>>& sizes,
                               std::uint64_t hole_from = UINT64_MAX);
// The same, from files that are there.
TestCheckpoint open_checkpoint(std::vector<MadeFile> files);

Result<std::unique_ptr<Stream>> start(const TestCheckpoint& checkpoint, const StreamOptions& options,
                                      std::optional<std::vector<PlanItem>> items = std::nullopt);

// What a consumer saw.
struct Consumed {
  std::vector<std::uint32_t> order;  // indexes of the items
  std::vector<ReadyItem> kept;
  std::optional<Error> error;
  bool ended = false;  // by kEnd
};

// Takes everything, checks every byte at the moment of hand-over (a wrong one is a test failure), and passes the item
// to `with`, which may drop it or move it away; without `with` it is dropped. Stops early when `with` returns false.
Consumed consume(Stream& stream, const TestCheckpoint& checkpoint, const std::vector<PlanItem>& items,
                 const std::function<bool(ReadyItem&)>& with = {});

// Whether the item has exactly its bytes.
[[nodiscard]] bool is_right(const ReadyItem& item, const TestCheckpoint& checkpoint,
                            const std::vector<PlanItem>& items);

}  // namespace weightstream::testing
