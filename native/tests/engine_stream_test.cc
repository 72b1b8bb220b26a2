// Streams without faults: what is handed out, in which order, what stays valid, and how a stream ends.
#include "engine/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <numeric>
#include <random>
#include <thread>

#include "fault_injecting_reader.h"
#include "process_state.h"
#include "storage/io_ring.h"
#include "stream_harness.h"

namespace weightstream {
namespace {

using testing::consume;
using testing::is_right;
using testing::kKiB;
using testing::kMiB;
using testing::kTinyLimit;
using testing::make_checkpoint;
using testing::start;
using testing::TempDir;
using testing::TestCheckpoint;

const std::vector<std::vector<std::uint64_t>> kSizes{
    {0, 300 * kKiB, 5, 4096, 700 * kKiB + 1, 0, 123'456, 1}, {}, {0, 0}, {900 * kKiB, 0, 2 * kMiB + 77, 3, 0}};

std::vector<std::uint32_t> first_numbers(std::size_t count) {
  std::vector<std::uint32_t> numbers(count);
  std::iota(numbers.begin(), numbers.end(), 0U);
  return numbers;
}

class StreamBy : public ::testing::TestWithParam<std::tuple<Backend, bool>> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()) == Backend::kUring && !IoRing::create(2).ok()) GTEST_SKIP() << "io_uring is refused";
  }
  static StreamOptions options(std::uint64_t memory_limit = kTinyLimit) {
    StreamOptions made;
    made.backend = std::get<0>(GetParam());
    made.file_order = std::get<1>(GetParam());
    made.memory_limit = memory_limit;
    return made;
  }
  std::unique_ptr<Stream> started(const TestCheckpoint& checkpoint, const StreamOptions& with) {
    auto stream = start(checkpoint, with);
    EXPECT_TRUE(stream.ok()) << (stream.ok() ? "" : stream.error().message);
    return std::move(stream).value();
  }

  TempDir folder_;
};

INSTANTIATE_TEST_SUITE_P(All, StreamBy,
                         ::testing::Combine(::testing::Values(Backend::kUring, Backend::kPread, Backend::kMmap),
                                            ::testing::Bool()),
                         [](const auto& test) {
                           return testing::name(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "_file" : "_arrival");
                         });

TEST_P(StreamBy, HandsOutEveryItemOnceAndRight) {
  const auto made = make_checkpoint(folder_, kSizes);
  for (const std::uint64_t limit : {std::uint64_t{0}, kTinyLimit, std::uint64_t{1}}) {
    const auto stream = started(made, options(limit));
    auto consumed = consume(*stream, made, made.items);
    EXPECT_TRUE(consumed.ended);
    if (!options().file_order) std::sort(consumed.order.begin(), consumed.order.end());
    EXPECT_EQ(consumed.order, first_numbers(made.items.size()));
    std::vector<ReadyItem> batch;
    EXPECT_EQ(*stream->next(batch, {}), Stream::Next::kEnd) << "the end stays the end";
  }
}

TEST_P(StreamBy, CountsWhatItDid) {
  const auto made = make_checkpoint(folder_, kSizes);
  const auto stream = started(made, options());
  EXPECT_TRUE(consume(*stream, made, made.items).ended);
  const auto stats = stream->stats();
  std::uint64_t total = 0;
  for (const auto& item : made.items) total += item.range.size();
  EXPECT_EQ(stats.items, made.items.size());
  EXPECT_EQ(stats.bytes, total);
  EXPECT_EQ(stats.bytes_total, total);
  EXPECT_GE(stats.bytes_read, total);
  EXPECT_LE(stats.bytes_read, total + 2 * 4096) << "only the headers' last blocks beside the tensors";
  EXPECT_GT(stats.reads, 10U);
  EXPECT_EQ(std::accumulate(stats.bytes_by_reader.begin(), stats.bytes_by_reader.end(), std::uint64_t{0}),
            stats.bytes_read);
  EXPECT_GE(stats.seconds, stats.first_item_seconds);
  EXPECT_LE(stats.peak_host_bytes, std::max(kTinyLimit, made.largest_span(256 * kKiB)));
  EXPECT_EQ(stream->reasons().size(), 2U) << "one for each source that is read";
  stream->close();
  EXPECT_EQ(stream->stats().seconds, stats.seconds) << "the clock stopped with the last item";
}

TEST_P(StreamBy, ItemsStayRightAfterCloseAndWithoutTheFiles) {
  auto made = make_checkpoint(folder_, kSizes);
  auto stream = started(made, options());
  std::vector<ReadyItem> kept;
  EXPECT_TRUE(consume(*stream, made, made.items, [&](ReadyItem& item) {
                kept.push_back(std::move(item));
                return true;
              }).ended);
  stream->close();
  stream.reset();
  made.checkpoint.reset();
  for (const auto& file : made.files) std::filesystem::remove(file.path);
  for (const auto& item : kept) EXPECT_TRUE(is_right(item, made, made.items)) << item.index;
}

// A consumer may do with its bytes what it likes: no later read, and no other item, undoes or sees it.
TEST_P(StreamBy, WritesToAnItemStayAndHarmNoOther) {
  const auto made = make_checkpoint(folder_, kSizes);
  const auto stream = started(made, options());
  std::vector<ReadyItem> kept;
  EXPECT_TRUE(consume(*stream, made, made.items, [&](ReadyItem& item) {
                if (item.lease) std::memset(item.lease.data(), 0xEE, item.lease.size());
                kept.push_back(std::move(item));
                return true;
              }).ended);
  for (const auto& item : kept) {
    if (!item.lease) continue;
    EXPECT_TRUE(std::all_of(item.lease.data(), item.lease.data() + item.lease.size(), [](std::byte b) {
      return b == std::byte{0xEE};
    })) << item.index;
  }
}

TEST_P(StreamBy, ConsumerMayStopAfterAnyItem) {
  const auto made = make_checkpoint(folder_, kSizes);
  const testing::Watchdog watchdog;
  const auto threads = testing::count_threads();
  for (std::size_t stop = 0; stop <= made.items.size(); ++stop) {
    auto stream = started(made, options());
    std::size_t taken = 0;
    std::vector<ReadyItem> kept;
    if (stop > 0) {
      static_cast<void>(consume(*stream, made, made.items, [&](ReadyItem& item) {
        kept.push_back(std::move(item));
        return ++taken < stop;
      }));
    }
    if (stop % 2 == 0) stream->close();
    stream.reset();
    for (const auto& item : kept) EXPECT_TRUE(is_right(item, made, made.items));
    EXPECT_TRUE(testing::eventually([&] { return testing::count_threads() <= threads; })) << stop;
  }
}

TEST_P(StreamBy, AnySubsetOfTheItemsCanBeAskedFor) {
  const auto made = make_checkpoint(folder_, kSizes);
  std::mt19937 random(7);
  for (int round = 0; round < 25; ++round) {
    std::vector<PlanItem> some;
    for (const auto& item : made.items) {
      if (random() % 3 != 0) continue;
      some.push_back(item);
      // A part of a tensor is an item too.
      if (random() % 2 == 0) some.back().range.begin += random() % (item.range.size() + 1);
    }
    auto stream = start(made, options(), some);
    ASSERT_TRUE(stream.ok());
    EXPECT_EQ(consume(**stream, made, some).order.size(), some.size());
  }
}

TEST_P(StreamBy, NothingToReadEndsAtOnce) {
  const auto made = make_checkpoint(folder_, {{}, {0, 0, 0}, {}});
  const auto threads = testing::count_threads();
  const auto stream = started(made, options());
  EXPECT_LE(testing::count_threads(), threads) << "nothing to read needs no thread";
  EXPECT_EQ(consume(*stream, made, made.items).order, first_numbers(3));
  auto none = start(made, options(), std::vector<PlanItem>{});
  ASSERT_TRUE(none.ok());
  EXPECT_TRUE(consume(**none, made, {}).ended);
}

TEST_P(StreamBy, SixtyFourAtOnce) {
  const auto made = make_checkpoint(folder_, {{300 * kKiB, 5, 400 * kKiB}, {100, 0, 200 * kKiB}});
  std::vector<std::unique_ptr<Stream>> streams;
  auto with = options();
  with.concurrency = 2;
  for (int i = 0; i < 64; ++i) streams.push_back(started(made, with));
  for (const auto& stream : streams) EXPECT_TRUE(consume(*stream, made, made.items).ended);
}

TEST_P(StreamBy, UnlinkedFilesAreReadToTheirEnd) {
  const auto made = make_checkpoint(folder_, {{3 * kMiB, 100, 2 * kMiB}});
  const auto stream = started(made, options());
  std::filesystem::remove(made.files[0].path);
  EXPECT_TRUE(consume(*stream, made, made.items).ended);
}

TEST_P(StreamBy, ClosedStreamSaysSoAndHoldsNothing) {
  const auto made = make_checkpoint(folder_, kSizes);
  made.checkpoint->park();
  const auto descriptors = testing::count_descriptors();
  const auto stream = started(made, options());
  EXPECT_EQ(consume(*stream, made, made.items, [](ReadyItem& item) { return !item.lease; }).ended, false);
  stream->close();
  stream->close();
  made.checkpoint->park();
  EXPECT_LE(testing::count_descriptors(), descriptors) << "also while the stream object lives on";
  std::vector<ReadyItem> batch;
  for (int call = 0; call < 2; ++call) {
    const auto next = stream->next(batch, std::chrono::seconds(1));
    ASSERT_FALSE(next.ok());
    EXPECT_EQ(next.error().code, ErrorCode::kClosed);
  }
}

// A read far into a sparse file: beyond 4 GiB, and beyond 2 TiB where the filesystem has such files.
TEST_P(StreamBy, SmallItemsFarIntoASparseFile) {
  for (const std::uint64_t hole : {std::uint64_t{5} << 30, std::uint64_t{3} << 40}) {
    TestCheckpoint made;
    try {
      made = make_checkpoint(folder_, {{1000, hole, 70'000, 0, 5}}, std::uint64_t{1} << 30);
    } catch (const std::runtime_error& refused) {
      ASSERT_GT(hole, std::uint64_t{1} << 40) << refused.what();
      GTEST_SKIP() << "no files of 3 TiB here: " << refused.what();
    }
    std::vector<PlanItem> small;
    for (const auto& item : made.items) {
      if (item.range.size() < hole) small.push_back(item);
    }
    auto stream = start(made, options(), small);
#ifdef __SANITIZE_THREAD__
    if (!stream.ok()) GTEST_SKIP() << "ThreadSanitizer leaves too little address space: " << stream.error().message;
#endif
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    EXPECT_EQ(consume(**stream, made, small).order.size(), 4U);
    EXPECT_LT((*stream)->stats().bytes_read, kMiB);
  }
}

TEST(Stream, FallsBackToThreadsWhenTheRingDoesNotStart) {
  TempDir folder;
  const auto made = make_checkpoint(folder, kSizes);
  for (const auto& file : made.files) testing::drop_from_cache(file.path);
  const auto plan = std::make_shared<testing::FaultPlan>();
  plan->fault = testing::Fault::kNoStart;
  plan->at = 1;
  StreamOptions options;
  options.memory_limit = kTinyLimit;
  bool uring = false;
  options.make_reader = [&, inner = testing::with_faults(plan)](ReaderKind kind, const ReaderContext& context) {
    uring = uring || kind == ReaderKind::kUring;
    return inner(kind, context);
  };
  auto stream = start(made, options);
  if (!uring) GTEST_SKIP() << "io_uring is not chosen here";
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  EXPECT_TRUE(consume(**stream, made, made.items).ended);
  EXPECT_EQ((*stream)->stats().bytes_by_reader[static_cast<std::size_t>(ReaderKind::kUring)], 0U);
  const auto log = (*stream)->drain_log();
  EXPECT_TRUE(std::any_of(log.begin(), log.end(),
                          [](const LogLine& line) { return line.text.find(": parallel pread") != std::string::npos; }));
}

TEST(Stream, SingleReadIsDoneWithoutThreads) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{100, 0, 5000}});
  const auto threads = testing::count_threads();
  auto stream = start(made, {});
  ASSERT_TRUE(stream.ok());
  EXPECT_LE(testing::count_threads(), threads);
  EXPECT_TRUE(consume(**stream, made, made.items).ended);
}

}  // namespace
}  // namespace weightstream
