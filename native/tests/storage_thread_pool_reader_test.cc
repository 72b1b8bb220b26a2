// The pool of threads with a blocking read each: pread, pages of a mapping, and a read that does what a script says.
#include "storage/thread_pool_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <thread>

#include "memory/arena.h"
#include "scripted_feed.h"
#include "storage/local_file.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::eventually;
using testing::first_wrong;
using testing::ScriptedFeed;
using testing::TempDir;

constexpr std::uint64_t kRead = 64 << 10;
constexpr std::uint64_t kSize = 40 * kRead + 12345;
constexpr std::uint64_t kSeed = 11;

// A blocking read made of a function.
class ReadBy final : public BlockingRead {
 public:
  using Function = std::function<Result<ReadEffort>(const ReadRequest&, const std::atomic<bool>&)>;
  explicit ReadBy(Function function) : function_(std::move(function)) {}
  Result<ReadEffort> execute(const ReadRequest& request, const std::atomic<bool>& stopping) override {
    return function_(request, stopping);
  }

 private:
  Function function_;
};

class ThreadPoolReader : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_pattern_file(path_, kSize, kSeed);
    auto opened = LocalFile::open(path_);
    ASSERT_TRUE(opened.ok());
    file_ = *opened;
  }
  static void read_all(ScriptedFeed& feed, std::unique_ptr<BlockingRead> read, ThreadPoolOptions options = {}) {
    const auto reader = make_thread_pool_reader(std::move(read), options);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(feed.size()));
    reader->stop();
  }

  TempDir folder_;
  const std::string path_ = folder_ / "file";
  std::shared_ptr<LocalFile> file_;
};

TEST_F(ThreadPoolReader, ReadsAFileInReadsOfAnySize) {
  for (const std::uint64_t bytes : {std::uint64_t{4096}, kRead, std::uint64_t{4} << 20}) {
    ScriptedFeed feed(*file_, kSize, bytes);
    read_all(feed, make_pread());
    EXPECT_TRUE(feed.errors().empty());
    EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
  }
}

TEST_F(ThreadPoolReader, ShortFileIsTruncatedAtItsOffset) {
  ScriptedFeed feed(*file_, kSize, kRead);
  std::filesystem::resize_file(path_, 2 * kRead + 777);
  read_all(feed, make_pread());
  EXPECT_EQ(feed.errors().size(), feed.size());
  const auto cut = feed.error(2);
  ASSERT_TRUE(cut.has_value());
  EXPECT_EQ(cut->code, ErrorCode::kTruncated);
  EXPECT_EQ(cut->range, feed.request(2).range());
  EXPECT_EQ(cut->expected, kRead);
  EXPECT_EQ(cut->got, 777U);
  EXPECT_EQ(feed.error(0)->code, ErrorCode::kSourceChanged) << "read in full, but from a file that changed";
  EXPECT_EQ(feed.error(3)->got, 0U);
}

// A request longer than one piece: the error still speaks of the whole request.
TEST_F(ThreadPoolReader, TruncationInALaterPieceSpeaksOfTheWholeRange) {
  const std::uint64_t size = std::uint64_t{5} << 20;
  testing::write_pattern_file(path_, size, kSeed);
  auto file = LocalFile::open(path_);
  ASSERT_TRUE(file.ok());
  ScriptedFeed feed(**file, size, size);
  std::filesystem::resize_file(path_, (std::uint64_t{3} << 20) + 5);
  read_all(feed, make_pread());
  ASSERT_TRUE(feed.error(0).has_value());
  EXPECT_EQ(feed.error(0)->code, ErrorCode::kTruncated);
  EXPECT_EQ(feed.error(0)->range, (ByteRange{0, size}));
  EXPECT_EQ(feed.error(0)->got, (std::uint64_t{3} << 20) + 5);
}

TEST_F(ThreadPoolReader, RewrittenFileIsNotBelieved) {
  ScriptedFeed feed(*file_, kSize, kRead);
  testing::touch(path_);
  read_all(feed, make_pread());
  EXPECT_EQ(feed.errors().size(), feed.size());
  for (const auto& error : feed.errors()) {
    EXPECT_EQ(error.code, ErrorCode::kSourceChanged);
    EXPECT_EQ(error.source, path_);
  }
}

// Written to in the middle of a load: what was reported before is right, what comes after is refused.
TEST_F(ThreadPoolReader, FileRewrittenHalfWayIsRefusedFromThenOn) {
  ScriptedFeed feed(*file_, kSize, kRead);
  feed.allow(5);
  const auto reader = make_thread_pool_reader(make_pread(), {});
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(feed.wait_for_reports(5));
  EXPECT_TRUE(feed.errors().empty());
  testing::touch(path_);
  feed.allow(SIZE_MAX);
  reader->wake();
  ASSERT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
  EXPECT_EQ(feed.errors().size(), feed.size() - 5);
  EXPECT_EQ(first_wrong(feed.bytes().first(5 * kRead), kSeed, 0), std::nullopt);
}

TEST_F(ThreadPoolReader, PopulatesAMapping) {
  auto handle = file_->handle();
  ASSERT_TRUE(handle.ok());
  auto arena = Arena::map_file((*handle)->buffered.get(), kSize);
  ASSERT_TRUE(arena.ok());
  const auto read = make_populate();
  const std::atomic<bool> stopping = false;
  ReadRequest request{.source = file_.get(),
                      .offset = kRead,
                      .length = 4 * kRead,
                      .wanted = 4 * kRead,
                      .into = (*arena)->at(kRead),
                      .id = 0};
  EXPECT_TRUE(read->execute(request, stopping).ok());
  EXPECT_EQ(first_wrong({request.into, request.wanted}, kSeed, kRead), std::nullopt);

  std::filesystem::resize_file(path_, kRead);
  const auto beyond = read->execute(request, stopping);
  ASSERT_FALSE(beyond.ok());
  EXPECT_EQ(beyond.error().code, ErrorCode::kSourceChanged);
}

TEST_F(ThreadPoolReader, StopEndsALongReadBetweenItsPieces) {
  const std::atomic<bool> stopping = true;
  ScriptedFeed feed(*file_, kSize, kSize);
  const auto result = make_pread()->execute(feed.request(0), stopping);
  ASSERT_FALSE(result.ok());
  EXPECT_EQ(result.error().code, ErrorCode::kClosed);
  EXPECT_EQ(result.error().range, feed.request(0).range());
}

TEST_F(ThreadPoolReader, StopWhileReadingReportsEverythingThatWasPulled) {
  for (std::size_t after = 0; after < 8; ++after) {
    ScriptedFeed feed(*file_, kSize, 4096);
    const auto reader = make_thread_pool_reader(make_pread(), {.start_concurrency = 4, .most_concurrency = 8});
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(after));
    reader->stop();
    EXPECT_EQ(feed.pulled(), feed.reported());
    reader->stop();
  }
}

TEST_F(ThreadPoolReader, StopWaitsForAReadThatIsUnderWay) {
  std::atomic<bool> entered = false;
  ScriptedFeed feed(*file_, kRead, kRead);
  const auto reader = make_thread_pool_reader(std::make_unique<ReadBy>([&](const auto&, const auto& stopping) {
                                                entered = true;
                                                while (!stopping.load()) std::this_thread::yield();
                                                return Error{.code = ErrorCode::kClosed, .message = "stopped"};
                                              }),
                                              {.start_concurrency = 2, .most_concurrency = 2});
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(eventually([&] { return entered.load(); }));
  reader->stop();
  EXPECT_EQ(feed.reported(), 1U);
}

// The feed fills after a pull found it empty, and the wake comes before the thread goes to sleep.
TEST_F(ThreadPoolReader, WakeThatMeetsAnEmptyPullIsNotLost) {
  ScriptedFeed feed(*file_, kSize, kRead);
  feed.allow(0);
  const auto reader = make_thread_pool_reader(make_pread(), {.start_concurrency = 1, .most_concurrency = 1});
  feed.on_empty_pull([&] {
    feed.allow(SIZE_MAX);
    reader->wake();
  });
  ASSERT_TRUE(reader->start(feed).ok());
  EXPECT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
}

// The feed runs dry and fills again at every possible moment; a lost wake would leave the reader asleep.
TEST_F(ThreadPoolReader, NoWakeIsLost) {
  ScriptedFeed feed(*file_, kSize, 4096);
  feed.allow(0);
  const auto reader = make_thread_pool_reader(make_pread(), {.start_concurrency = 3, .most_concurrency = 3});
  ASSERT_TRUE(reader->start(feed).ok());
  for (std::size_t allowed = 1; allowed <= feed.size(); ++allowed) {
    feed.allow(allowed);
    reader->wake();
    // Every other time the wake meets threads that just found the feed empty.
    if (allowed % 2 == 0) {
      ASSERT_TRUE(feed.wait_for_reports(allowed));
    }
  }
  ASSERT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

TEST_F(ThreadPoolReader, WakesFromManyThreadsAtOnce) {
  ScriptedFeed feed(*file_, kSize, 4096);
  feed.allow(0);
  const auto reader = make_thread_pool_reader(make_pread(), {.start_concurrency = 4, .most_concurrency = 4});
  ASSERT_TRUE(reader->start(feed).ok());
  std::atomic<std::size_t> allowed = 0;
  std::vector<std::thread> wakers;
  for (int i = 0; i < 3; ++i) {
    wakers.emplace_back([&] {
      while (allowed < feed.size()) {
        feed.allow(allowed += 7);
        reader->wake();
      }
    });
  }
  for (auto& waker : wakers) waker.join();
  feed.allow(SIZE_MAX);
  reader->wake();
  ASSERT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
}

TEST_F(ThreadPoolReader, KeepsAsManyReadsInFlightAsAsked) {
  // Each read waits until `kPlaces` are inside: fewer threads would wait for ever, more would be counted.
  constexpr std::uint32_t kPlaces = 5;
  std::mutex mutex;
  std::condition_variable changed;
  std::size_t inside = 0;
  ScriptedFeed feed(*file_, 10 * kRead, kRead);
  read_all(feed, std::make_unique<ReadBy>([&](const auto&, const auto&) -> Result<ReadEffort> {
             std::unique_lock lock(mutex);
             const auto turn = inside++ / kPlaces;
             changed.notify_all();
             if (changed.wait_for(lock, testing::kPatience, [&] { return inside >= (turn + 1) * kPlaces; })) {
               return ReadEffort{};
             }
             return Error{.code = ErrorCode::kTimeout, .message = "nobody came"};
           }),
           {.start_concurrency = kPlaces, .most_concurrency = kPlaces});
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(feed.most_in_flight(), kPlaces);
}

// Storage with latency only: each doubling of the reads in flight pays, so the pool grows.
TEST_F(ThreadPoolReader, GrowsWhileItPays) {
  ScriptedFeed feed(*file_, kSize, 4096);
  read_all(feed, std::make_unique<ReadBy>([](const auto&, const auto&) -> Result<ReadEffort> {
             std::this_thread::sleep_for(std::chrono::milliseconds(3));  // the storage's latency
             return ReadEffort{};
           }),
           {.start_concurrency = 1, .most_concurrency = 8});
  EXPECT_GE(feed.most_in_flight(), 3U);
  EXPECT_LE(feed.most_in_flight(), 8U);
}

TEST_F(ThreadPoolReader, ErrorsArePassedOnAndOthersGoOn) {
  ScriptedFeed feed(*file_, kSize, kRead);
  const auto inner = std::shared_ptr<BlockingRead>(make_pread());
  read_all(feed, std::make_unique<ReadBy>([&](const ReadRequest& request, const auto& stopping) -> Result<ReadEffort> {
             if (request.id == 3) return file_->read_error(EIO, request.range());
             return inner->execute(request, stopping);
           }));
  ASSERT_EQ(feed.errors().size(), 1U);
  EXPECT_EQ(feed.error(3)->system_errno, EIO);
}

}  // namespace
}  // namespace weightstream
