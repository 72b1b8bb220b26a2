// The memory limit: kept in every run but for one item that is larger, and never a deadlock.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <thread>

#include "engine/stream.h"
#include "fault_injecting_reader.h"
#include "process_state.h"
#include "storage/io_ring.h"
#include "stream_harness.h"

namespace weightstream {
namespace {

using testing::consume;
using testing::kKiB;
using testing::kMiB;
using testing::make_checkpoint;
using testing::start;
using testing::TempDir;
using testing::TestCheckpoint;

constexpr std::uint64_t kSmallestRead = 256 * kKiB;

std::vector<std::uint64_t> mixed_sizes(std::uint64_t count, std::uint64_t salt) {
  const std::uint64_t kinds[] = {0, 1, 4096, 100'000, 300'000, 700'001, 20};
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t i = 0; i < count; ++i) sizes.push_back(kinds[(i * 5 + salt + i / 3) % 7]);
  return sizes;
}

// Consumes to the end and checks the peak, as a fast and as a slow consumer.
void expect_bounded(const TestCheckpoint& made, StreamOptions options, bool slow) {
  auto stream = start(made, options);
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  const auto consumed = consume(**stream, made, made.items, [&](ReadyItem&) {
    // The slowness is what is tested: reads fill whatever room there is meanwhile.
    if (slow) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    return true;
  });
  EXPECT_TRUE(consumed.ended);
  EXPECT_LE((*stream)->stats().peak_host_bytes, std::max(options.memory_limit, made.largest_span(kSmallestRead)));
}

TEST(MemoryLimit, IsKeptForEveryReaderOrderAndLimit) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {mixed_sizes(12, 0), mixed_sizes(12, 3)});
  testing::Watchdog watchdog;
  for (const auto backend : {Backend::kPread, Backend::kMmap, Backend::kUring}) {
    if (backend == Backend::kUring && !IoRing::create(2).ok()) continue;
    for (const bool file_order : {false, true}) {
      for (const std::uint64_t limit : {std::uint64_t{1}, std::uint64_t{4096}, 300 * kKiB, kMiB, 2 * kMiB}) {
        for (const bool slow : {false, true}) {
          watchdog.begin("backend " + std::to_string(static_cast<int>(backend)) + " limit " + std::to_string(limit));
          StreamOptions options;
          options.backend = backend;
          options.file_order = file_order;
          options.memory_limit = limit;
          expect_bounded(made, options, slow);
        }
      }
    }
  }
}

// Completions turned around make the oldest item wait while the budget is full of later ones.
TEST(MemoryLimit, IsKeptWhenReadsCompleteOutOfOrder) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {mixed_sizes(20, 1), mixed_sizes(9, 2)});
  testing::Watchdog watchdog;
  for (const auto fault : {testing::Fault::kReversed, testing::Fault::kDelayed}) {
    for (std::uint64_t at = 1; at < 12; ++at) {
      for (const bool file_order : {false, true}) {
        watchdog.begin(std::string(testing::name(fault)) + " from " + std::to_string(at));
        const auto plan = std::make_shared<testing::FaultPlan>();
        plan->fault = fault;
        plan->at = at;
        StreamOptions options;
        options.backend = Backend::kPread;
        options.file_order = file_order;
        options.memory_limit = kMiB;
        options.make_reader = testing::with_faults(plan);
        expect_bounded(made, options, false);
      }
    }
  }
}

TEST(MemoryLimit, ItemLargerThanTheLimitIsTheOneOvershoot) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{1000, 5 * kMiB + 3, 1000, 100 * kKiB, 3 * kMiB, 0, 7}});
  testing::Watchdog watchdog;
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t limit : {std::uint64_t{1}, 300 * kKiB, kMiB}) {
      StreamOptions options;
      options.backend = Backend::kPread;
      options.file_order = file_order;
      options.memory_limit = limit;
      expect_bounded(made, options, false);
    }
  }
}

// A consumer that takes nothing: reading fills the limit, stops, and says that it waits for the consumer.
TEST(MemoryLimit, ReadingWaitsForAConsumerThatTakesNothing) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {std::vector<std::uint64_t>(40, 200 * kKiB)});
  StreamOptions options;
  options.backend = Backend::kPread;
  options.memory_limit = 2 * kMiB;
  auto stream = start(made, options);
  ASSERT_TRUE(stream.ok());
  EXPECT_TRUE(testing::eventually([&] { return (*stream)->stats().wait_consumer_seconds > 0; }));
  EXPECT_LT((*stream)->stats().bytes_read, 3 * kMiB);
  EXPECT_TRUE(consume(**stream, made, made.items).ended);
}

// Sources on two filesystems, interleaved, each read by the reader that suits it: the two share one budget.
TEST(MemoryLimit, IsSharedByReadersOfDifferentKinds) {
  if (::access("/dev/shm", W_OK) != 0) GTEST_SKIP() << "no /dev/shm";
  TempDir disk;
  TempDir memory("/dev/shm");
  std::vector<testing::MadeFile> files;
  for (std::uint64_t i = 0; i < 6; ++i) {
    const auto name = "s" + std::to_string(i);
    files.push_back(testing::write_checkpoint((i % 2 == 0 ? disk : memory) / name, mixed_sizes(9, i), i, name + "."));
  }
  const auto made = testing::open_checkpoint(files);
  testing::Watchdog watchdog;
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t limit : {std::uint64_t{1}, 300 * kKiB, kMiB, 3 * kMiB}) {
      for (const bool slow : {false, true}) {
        for (std::size_t i = 0; i < files.size(); i += 2) testing::drop_from_cache(files[i].path);
        StreamOptions options;
        options.file_order = file_order;
        options.memory_limit = limit;
        auto probe = start(made, options);
        ASSERT_TRUE(probe.ok());
        const auto& reasons = (*probe)->reasons();
        if (std::none_of(reasons.begin(), reasons.end(),
                         [](const auto& reason) { return reason.second.find("io_uring with") != std::string::npos; })) {
          GTEST_SKIP() << "no file here is read by io_uring: " << reasons.front().second;
        }
        (*probe)->close();
        expect_bounded(made, options, slow);
      }
    }
  }
}

}  // namespace
}  // namespace weightstream
