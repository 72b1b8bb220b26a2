// Readers that work as one: each is woken and stopped while it runs, and only then.
#include "storage/reader_group.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace weightstream {
namespace {

// What happened to a reader, and what it does when it is started.
struct Life {
  std::function<Status()> on_start = [] { return Ok{}; };
  bool running = false;
  int wakes = 0;
  int stops = 0;
};

class RecordedReader final : public Reader {
 public:
  explicit RecordedReader(Life& life) : life_(life) {}
  Status start(ReadFeed& /*feed*/) override {
    auto started = life_.on_start();
    life_.running = started.ok();
    return started;
  }
  void wake() override {
    EXPECT_TRUE(life_.running) << "woken before it runs";
    ++life_.wakes;
  }
  void stop() override {
    EXPECT_TRUE(life_.running) << "stopped, but it never ran";
    life_.running = false;
    ++life_.stops;
  }

 private:
  Life& life_;
};

class NoRequests final : public ReadFeed {
  std::optional<ReadRequest> pull() override { return std::nullopt; }
  void complete(const ReadRequest& /*request*/, Result<ReadEffort> /*result*/) override {}
};

class ReaderGroupTest : public ::testing::Test {
 protected:
  std::unique_ptr<Reader> group() {
    std::vector<std::unique_ptr<Reader>> readers;
    for (auto& life : lives_) readers.push_back(std::make_unique<RecordedReader>(life));
    return make_reader_group(std::move(readers));
  }
  static Status refuse() { return Error{.code = ErrorCode::kStorage, .message = "refused", .system_errno = EAGAIN}; }

  std::vector<Life> lives_{3};
  NoRequests feed_;
};

TEST_F(ReaderGroupTest, WakesAndStopsAll) {
  const auto readers = group();
  ASSERT_TRUE(readers->start(feed_).ok());
  const int before = lives_[2].wakes;
  readers->wake();
  EXPECT_EQ(lives_[2].wakes, before + 1);
  readers->stop();
  for (const auto& life : lives_) EXPECT_EQ(life.stops, 1);
}

// The first reader's threads run while the others are started, and what they do may wake the group.
TEST_F(ReaderGroupTest, WakeWhileStartingReachesEachReaderOnceItRuns) {
  std::unique_ptr<Reader> readers;
  lives_[1].on_start = [&]() -> Status {
    readers->wake();
    return Ok{};
  };
  readers = group();
  ASSERT_TRUE(readers->start(feed_).ok());
  for (const auto& life : lives_) EXPECT_GE(life.wakes, 1);
  readers->stop();
}

TEST_F(ReaderGroupTest, GoesOnWithThoseThatStarted) {
  lives_[2].on_start = refuse;
  const auto readers = group();
  ASSERT_TRUE(readers->start(feed_).ok());
  readers->wake();
  readers->stop();
  EXPECT_EQ(lives_[1].stops, 1);
  EXPECT_EQ(lives_[2].stops, 0);
}

TEST_F(ReaderGroupTest, FailsWhenTheFirstDoes) {
  lives_[0].on_start = refuse;
  const auto readers = group();
  const auto started = readers->start(feed_);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().system_errno, EAGAIN);
  EXPECT_FALSE(lives_[1].running);
}

}  // namespace
}  // namespace weightstream
