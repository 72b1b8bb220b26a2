// Streams and threads: who may call what at the same time, and what a fork leaves behind.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/stream.h"
#include "process_state.h"
#include "storage/io_ring.h"
#include "stream_harness.h"

namespace weightstream {
namespace {

using testing::consume;
using testing::eventually;
using testing::kKiB;
using testing::kMiB;
using testing::kPatience;
using testing::kTinyLimit;
using testing::make_checkpoint;
using testing::start;
using testing::TempDir;

// Storage that never answers: takes one request and reports it when it is stopped.
class SilentReader final : public Reader {
 public:
  Status start(ReadFeed& feed) override {
    feed_ = &feed;
    request_ = feed.pull();
    return Ok{};
  }
  void wake() override {}
  void stop() override {
    if (request_) feed_->complete(*request_, Error{.code = ErrorCode::kClosed, .message = "stopped"});
    request_.reset();
  }

 private:
  ReadFeed* feed_ = nullptr;
  std::optional<ReadRequest> request_;
};

StreamOptions silent() {
  StreamOptions options;
  options.backend = Backend::kPread;
  options.make_reader = [](ReaderKind, const ReaderContext&) { return std::make_unique<SilentReader>(); };
  return options;
}

ErrorCode code_of(Stream& stream, std::chrono::milliseconds patience) {
  std::vector<ReadyItem> batch;
  const auto next = stream.next(batch, patience);
  return next.ok() ? ErrorCode::kConfig : next.error().code;
}

// Reads all that it may while it is being started, as the first threads of a reader may do before the last one is made.
class HastyReader final : public Reader {
 public:
  explicit HastyReader(int& wakes) : wakes_(wakes) {}
  Status start(ReadFeed& feed) override {
    while (const auto request = feed.pull()) requests_.push_back(*request);
    for (const auto& request : requests_) feed.complete(request, ReadEffort{});
    EXPECT_GT(requests_.size(), 1U);
    EXPECT_EQ(wakes_, 0) << "woken before start() was over";
    return Ok{};
  }
  void wake() override { ++wakes_; }
  void stop() override {}

 private:
  std::vector<ReadRequest> requests_;
  int& wakes_;
};

TEST(StreamThreads, AReaderIsWokenWhenItsStartIsOverAndNotBefore) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {std::vector<std::uint64_t>(60, 100 * kKiB)});
  // Every other one: what lies between them is given back when it was read, and makes room.
  std::vector<PlanItem> items;
  for (std::size_t i = 0; i < made.items.size(); i += 2) items.push_back(made.items[i]);
  int wakes = 0;
  StreamOptions options;
  options.backend = Backend::kPread;
  options.memory_limit = kTinyLimit;
  options.make_reader = [&](ReaderKind, const ReaderContext&) { return std::make_unique<HastyReader>(wakes); };
  const auto stream = start(made, options, items);
  ASSERT_TRUE(stream.ok());
  EXPECT_EQ(wakes, 1);
}

TEST(StreamThreads, PatienceEndsTheWait) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{2 * kMiB}});
  auto stream = start(made, silent());
  ASSERT_TRUE(stream.ok());
  std::vector<ReadyItem> batch;
  EXPECT_EQ(*(*stream)->next(batch, std::chrono::milliseconds(1)), Stream::Next::kNotYet);
  EXPECT_EQ(*(*stream)->next(batch, {}), Stream::Next::kNotYet);
  EXPECT_GT((*stream)->stats().wait_storage_seconds, 0.0);
}

// The second caller is told; the first waits on, until close() from the second thread ends its wait.
TEST(StreamThreads, SecondConsumerIsRefusedAndCloseEndsTheWaitOfTheFirst) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{2 * kMiB}});
  const testing::Watchdog watchdog;
  auto stream = start(made, silent());
  ASSERT_TRUE(stream.ok());
  std::atomic<ErrorCode> first = ErrorCode::kConfig;
  std::atomic<bool> closing = false;
  std::thread consumer([&] {
    // Until close(), being refused only means that the other thread was inside at that moment.
    ErrorCode code = ErrorCode::kClosed;
    while (code == ErrorCode::kClosed && !closing) code = code_of(**stream, kPatience);
    first = code;
  });
  EXPECT_TRUE(eventually([&] { return code_of(**stream, {}) == ErrorCode::kClosed; }));
  EXPECT_EQ(first.load(), ErrorCode::kConfig) << "the first must still wait";
  const auto before = std::chrono::steady_clock::now();
  closing = true;
  (*stream)->close();
  consumer.join();
  EXPECT_EQ(first.load(), ErrorCode::kClosed);
  EXPECT_LT(std::chrono::steady_clock::now() - before, kPatience / 2);
}

TEST(StreamThreads, CloseMayMeetNextAtAnyMoment) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{300 * kKiB, 10, 400 * kKiB, 0, kMiB}});
  const testing::Watchdog watchdog;
  for (std::uint32_t after = 0; after < 30; ++after) {
    StreamOptions options;
    options.memory_limit = kTinyLimit;
    options.backend = Backend::kPread;
    auto stream = start(made, options);
    ASSERT_TRUE(stream.ok());
    std::atomic<std::uint32_t> taken = 0;
    std::thread consumer([&] {
      const auto consumed = consume(**stream, made, made.items, [&](ReadyItem&) {
        ++taken;
        return true;
      });
      EXPECT_TRUE(consumed.ended || consumed.error->code == ErrorCode::kClosed);
    });
    while (taken < after % 6 && (*stream)->stats().items < made.items.size()) std::this_thread::yield();
    (*stream)->close();
    consumer.join();
  }
}

TEST(StreamThreads, StatsAndLogMayBeAskedForAtAnyTime) {
  TempDir folder;
  const auto made = make_checkpoint(folder, {{300 * kKiB, 10, 400 * kKiB, 0, 3 * kMiB}});
  StreamOptions options;
  options.memory_limit = kTinyLimit;
  auto stream = start(made, options);
  ASSERT_TRUE(stream.ok());
  std::atomic<bool> done = false;
  std::thread watcher([&] {
    std::uint64_t before = 0;
    while (!done) {
      const auto stats = (*stream)->stats();
      EXPECT_GE(stats.bytes, before);
      EXPECT_LE(stats.bytes, stats.bytes_total);
      before = stats.bytes;
      static_cast<void>((*stream)->drain_log());
    }
  });
  EXPECT_TRUE(consume(**stream, made, made.items).ended);
  done = true;
  watcher.join();
}

TEST(StreamThreads, LeasesMayDieOnOtherThreadsWhileReadingGoesOn) {
  TempDir folder;
  std::vector<std::uint64_t> sizes;
  for (std::uint64_t i = 0; i < 60; ++i) sizes.push_back(i * 7919 % (300 * kKiB));
  const auto made = make_checkpoint(folder, {sizes, sizes});
  StreamOptions options;
  options.memory_limit = 4 * kMiB;
  auto stream = start(made, options);
  ASSERT_TRUE(stream.ok());
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<ReadyItem> passed;
  bool done = false;
  std::thread dropper([&] {
    std::unique_lock lock(mutex);
    while (!done || !passed.empty()) {
      changed.wait(lock, [&] { return done || !passed.empty(); });
      const auto drop = std::move(passed);
      passed.clear();
      lock.unlock();
      for (const auto& item : drop) EXPECT_TRUE(testing::is_right(item, made, made.items));
      lock.lock();
    }
  });
  EXPECT_TRUE(consume(**stream, made, made.items, [&](ReadyItem& item) {
                const std::lock_guard lock(mutex);
                passed.push_back(std::move(item));
                changed.notify_one();
                return true;
              }).ended);
  {
    const std::lock_guard lock(mutex);
    done = true;
  }
  changed.notify_one();
  dropper.join();
}

TEST(StreamThreads, ForkLeavesTheParentAloneAndTellsTheChild) {
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "ThreadSanitizer does not follow a fork of a process with threads";
#endif
  TempDir folder;
  const auto made = make_checkpoint(folder, {{2 * kMiB, 5, 3 * kMiB}});
  for (const auto backend : {Backend::kPread, Backend::kUring}) {
    if (backend == Backend::kUring && !IoRing::create(2).ok()) continue;
    StreamOptions options;
    options.memory_limit = kTinyLimit;
    options.backend = backend;
    auto stream = start(made, options);
    ASSERT_TRUE(stream.ok());
    const int outcome = testing::in_child([&] {
      std::vector<ReadyItem> batch;
      const auto next = (*stream)->next(batch, std::chrono::seconds(1));
      if (next.ok() || next.error().code != ErrorCode::kClosed) return 1;
      if (next.error().message.find("fork") == std::string::npos) return 2;
      static_cast<void>((*stream)->stats());
      (*stream)->close();
      (*stream)->close();
      (*stream).reset();
      return 0;
    });
    EXPECT_EQ(outcome, 0);
    EXPECT_TRUE(consume(**stream, made, made.items).ended);
  }
}

}  // namespace
}  // namespace weightstream
