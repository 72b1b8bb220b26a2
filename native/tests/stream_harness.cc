#include "stream_harness.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "process_state.h"

namespace weightstream::testing {

std::uint64_t TestCheckpoint::largest_span(std::uint64_t read_bytes) const {
  std::uint64_t largest = 0;
  for (const auto& item : items) {
    if (item.range.empty()) continue;
    largest = std::max(largest, align_up(item.range.end, read_bytes) - align_down(item.range.begin, read_bytes));
  }
  return largest;
}

std::string name(Backend backend) {
  const char* const names[] = {"auto", "uring", "pread", "mmap", "gds"};
  return names[static_cast<std::size_t>(backend)];
}

TestCheckpoint open_checkpoint(std::vector<MadeFile> files) {
  std::vector<SourceSpec> paths;
  for (const auto& file : files) paths.emplace_back(file.path);
  LogSink log;
  auto opened = Checkpoint::open(paths, std::nullopt, log);
  EXPECT_TRUE(opened.ok()) << (opened.ok() ? "" : opened.error().message);
  TestCheckpoint made{.files = std::move(files), .checkpoint = std::move(opened).value(), .items = {}};
  for (const auto ref : made.checkpoint->tensors()) {
    made.items.push_back({ref.source, made.checkpoint->header(ref).range(ref.entry)});
  }
  return made;
}

TestCheckpoint make_checkpoint(const TempDir& folder, const std::vector<std::vector<std::uint64_t>>& sizes,
                               std::uint64_t hole_from) {
  std::vector<MadeFile> files;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string name = "shard" + std::to_string(i);
    files.push_back(write_checkpoint(folder / name, sizes[i], i + 1, name + ".", hole_from));
  }
  return open_checkpoint(std::move(files));
}

Result<std::unique_ptr<Stream>> start(const TestCheckpoint& checkpoint, const StreamOptions& options,
                                      std::optional<std::vector<PlanItem>> items) {
  return Stream::start(checkpoint.checkpoint->sources(), items ? std::move(*items) : checkpoint.items, options,
                       Stream::Clock::now());
}

bool is_right(const ReadyItem& item, const TestCheckpoint& checkpoint, const std::vector<PlanItem>& items) {
  const PlanItem& wanted = items[item.index];
  if (wanted.range.empty()) return !item.lease;
  if (item.lease.size() != wanted.range.size()) return false;
  return !first_wrong({item.lease.data(), item.lease.size()}, checkpoint.files[wanted.source].seed, wanted.range.begin);
}

Consumed consume(Stream& stream, const TestCheckpoint& checkpoint, const std::vector<PlanItem>& items,
                 const std::function<bool(ReadyItem&)>& with) {
  Consumed consumed;
  const auto deadline = Stream::Clock::now() + kPatience;
  while (true) {
    std::vector<ReadyItem> batch;
    auto next = stream.next(batch, std::chrono::milliseconds(100));
    if (!next) {
      EXPECT_TRUE(batch.empty()) << "items came with an error";
      consumed.error = std::move(next).error();
      return consumed;
    }
    if (*next == Stream::Next::kEnd) {
      consumed.ended = true;
      return consumed;
    }
    EXPECT_EQ(*next == Stream::Next::kItems, !batch.empty());
    for (auto& item : batch) {
      EXPECT_TRUE(is_right(item, checkpoint, items)) << "item " << item.index << " has wrong bytes";
      consumed.order.push_back(item.index);
      if (with && !with(item)) return consumed;
    }
    if (Stream::Clock::now() > deadline) {
      ADD_FAILURE() << "the stream does not end";
      return consumed;
    }
  }
}

}  // namespace weightstream::testing
