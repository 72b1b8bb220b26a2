// Fail the k-th operation, for k = 1, 2, ... until a run is clean, for each fault, reader, order and limit, and check
// each time: right bytes or a typed error that says where; bounded time; threads, descriptors and mappings back; the
// next stream works.
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <tuple>

#include "engine/stream.h"
#include "fault_injecting_reader.h"
#include "process_state.h"
#include "storage/io_ring.h"
#include "stream_harness.h"

namespace weightstream {
namespace {

using testing::consume;
using testing::Fault;
using testing::FaultPlan;
using testing::kKiB;
using testing::kMiB;
using testing::kTinyLimit;
using testing::make_checkpoint;
using testing::start;
using testing::TempDir;
using testing::TestCheckpoint;

// The last tensor of the first file is a hole that nobody asks for: it makes the arena so large that one that is left
// behind is seen in the size of the address space.
constexpr std::uint64_t kHole = std::uint64_t{16} << 30;
const std::vector<std::vector<std::uint64_t>> kSizes{{0, 300 * kKiB, 5, 4096, 500 * kKiB + 1, 0, 123'456, kHole},
                                                     {400 * kKiB, 0, 700 * kKiB, 3}};

using Setting = std::tuple<Backend, bool, std::uint64_t>;

class StreamFault : public ::testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (std::get<0>(GetParam()) == Backend::kUring && !IoRing::create(2).ok()) GTEST_SKIP() << "io_uring is refused";
    made_ = make_checkpoint(folder_, kSizes, kHole);
    std::erase_if(made_.items, [](const PlanItem& item) { return item.range.size() == kHole; });
    run(Fault::kNone, 0);  // what is set up once in a process is there from now on
    threads_ = testing::count_threads();
    descriptors_ = testing::count_descriptors();
    mapped_ = testing::mapped_bytes();
  }

  // One stream from start to end. Whether the fault happened.
  bool run(Fault fault, std::uint64_t at) {
    watchdog_.begin(std::string(testing::name(fault)) + " at " + std::to_string(at));
    SCOPED_TRACE(std::string(testing::name(fault)) + " at " + std::to_string(at));
    const auto plan = std::make_shared<FaultPlan>();
    plan->fault = fault;
    plan->at = at;
    StreamOptions options;
    std::tie(options.backend, options.file_order, options.memory_limit) = GetParam();
    options.make_reader = testing::with_faults(plan);
    if (auto stream = start(made_, options); stream.ok()) {
      check(**stream, fault, *plan);
      if (at % 2 == 0) (*stream)->close();
    } else {
      EXPECT_EQ(fault, Fault::kNoStart) << stream.error().message;
      EXPECT_EQ(stream.error().system_errno, EAGAIN);
    }
    made_.checkpoint->park();
    return plan->happened;
  }

  void check(Stream& stream, Fault fault, const FaultPlan& plan) {
    const auto consumed = consume(stream, made_, made_.items);
    EXPECT_LE(
        stream.stats().peak_host_bytes,
        std::max(std::get<2>(GetParam()) == 0 ? UINT64_MAX : std::get<2>(GetParam()), made_.largest_span(256 * kKiB)));
    if (!plan.happened || !testing::fails(fault)) {
      EXPECT_TRUE(consumed.ended) << consumed.error->message;
      EXPECT_EQ(consumed.order.size(), made_.items.size());
      return;
    }
    ASSERT_TRUE(consumed.error.has_value()) << "a failed read went by unseen";
    const Error& error = *consumed.error;
    EXPECT_TRUE(error.source == made_.files[0].path || error.source == made_.files[1].path) << error.source;
    if (fault == Fault::kIoError) {
      EXPECT_EQ(error.code, ErrorCode::kStorage);
      EXPECT_EQ(error.system_errno, EIO);
    }
    if (fault == Fault::kTruncated) {
      EXPECT_EQ(error.code, ErrorCode::kTruncated);
    }
    if (fault == Fault::kSourceChanged) {
      EXPECT_EQ(error.code, ErrorCode::kSourceChanged);
    } else {
      EXPECT_TRUE(error.range.has_value());
    }
    std::vector<ReadyItem> batch;
    const auto again = stream.next(batch, {});
    ASSERT_FALSE(again.ok()) << "the error is what every later call returns";
    EXPECT_EQ(again.error().message, error.message);
  }

  void expect_nothing_left_behind() {
    EXPECT_TRUE(testing::eventually([&] { return testing::count_threads() <= threads_; }))
        << testing::count_threads() << " threads, there were " << threads_;
    EXPECT_LE(testing::count_descriptors(), descriptors_);
    EXPECT_LT(testing::mapped_bytes(), mapped_ + kHole / 2);
  }

  testing::Watchdog watchdog_;
  TempDir folder_;
  TestCheckpoint made_;
  std::size_t threads_ = 0;
  std::size_t descriptors_ = 0;
  std::uint64_t mapped_ = 0;
};

INSTANTIATE_TEST_SUITE_P(All, StreamFault,
                         ::testing::Combine(::testing::Values(Backend::kUring, Backend::kPread, Backend::kMmap),
                                            ::testing::Bool(), ::testing::Values(kTinyLimit, std::uint64_t{0})),
                         [](const auto& test) {
                           return testing::name(std::get<0>(test.param)) +
                                  (std::get<1>(test.param) ? "_file" : "_arrival") +
                                  (std::get<2>(test.param) == 0 ? "_default" : "_tiny");
                         });

TEST_P(StreamFault, FailTheKthOperation) {
  for (const auto fault : {Fault::kIoError, Fault::kTruncated, Fault::kSourceChanged, Fault::kDelayed, Fault::kReversed,
                           Fault::kNoStart}) {
    std::uint64_t at = 1;
    while (run(fault, at)) {
      ASSERT_FALSE(HasFatalFailure());
      expect_nothing_left_behind();
      ASSERT_LT(++at, 100U) << "no run is ever clean";
    }
    EXPECT_GT(at, 1U) << testing::name(fault) << " never happened";
    expect_nothing_left_behind();
  }
}

// Real changes to a file in the middle of a load, after each item.
class StreamChange : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    if (GetParam() == Backend::kUring && !IoRing::create(2).ok()) GTEST_SKIP() << "io_uring is refused";
  }
  template <typename Change>
  void change_after_each_item(Change change, std::initializer_list<ErrorCode> expected) {
    bool refused = false;
    for (std::size_t after = 0; after < 5; ++after) {
      const auto made = make_checkpoint(folder_, {{600 * kKiB, 5, 800 * kKiB, 900 * kKiB, 3 * kMiB}});
      StreamOptions options;
      options.backend = GetParam();
      options.memory_limit = kTinyLimit;
      auto stream = start(made, options);
      ASSERT_TRUE(stream.ok());
      std::size_t taken = 0;
      if (after == 0) change(made.files[0].path);
      const auto consumed = consume(**stream, made, made.items, [&](ReadyItem&) {
        if (++taken == after) change(made.files[0].path);
        return true;
      });
      // What was read before the change may be all there is.
      if (consumed.ended) continue;
      refused = true;
      EXPECT_NE(std::find(expected.begin(), expected.end(), consumed.error->code), expected.end())
          << consumed.error->message;
      EXPECT_EQ(consumed.error->source, made.files[0].path);
    }
    EXPECT_TRUE(refused) << "no change was ever noticed";
  }

  testing::Watchdog watchdog_;
  TempDir folder_;
};

// Without mmap: its bytes are the file's, and a consumer that looks beyond the new end gets a signal.
INSTANTIATE_TEST_SUITE_P(All, StreamChange, ::testing::Values(Backend::kUring, Backend::kPread),
                         [](const auto& test) { return testing::name(test.param); });

TEST_P(StreamChange, TruncatedWhileLoading) {
  for (const std::uint64_t size : {std::uint64_t{0}, 100 * kKiB + 77, 700 * kKiB}) {
    change_after_each_item([=](const std::string& path) { std::filesystem::resize_file(path, size); },
                           {ErrorCode::kTruncated, ErrorCode::kSourceChanged});
  }
}

TEST_P(StreamChange, RewrittenWhileLoading) {
  change_after_each_item([](const std::string& path) { testing::touch(path); }, {ErrorCode::kSourceChanged});
}

TEST_P(StreamChange, GrownWhileLoading) {
  change_after_each_item([](const std::string& path) { std::filesystem::resize_file(path, 50 * kMiB); },
                         {ErrorCode::kSourceChanged});
}

TEST_P(StreamChange, ReplacedBeforeItIsOpenedAgain) {
  const auto made = make_checkpoint(folder_, {{600 * kKiB, 5, 800 * kKiB}});
  made.checkpoint->park();
  testing::write_pattern_file(folder_ / "new", std::filesystem::file_size(made.files[0].path), 9);
  std::filesystem::rename(folder_ / "new", made.files[0].path);
  StreamOptions options;
  options.backend = GetParam();
  options.memory_limit = kTinyLimit;
  auto stream = start(made, options);
  ASSERT_TRUE(stream.ok());
  const auto consumed = consume(**stream, made, made.items);
  ASSERT_TRUE(consumed.error.has_value());
  EXPECT_EQ(consumed.error->code, ErrorCode::kSourceChanged);
  EXPECT_TRUE(consumed.order.empty());
}

}  // namespace
}  // namespace weightstream
