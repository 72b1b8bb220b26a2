// Marks of those who read the same file: who sees whom, and what a reader makes of it.
#include "storage/reading_mark.h"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "process_state.h"
#include "scripted_feed.h"
#include "storage/io_ring.h"
#include "storage/local_probe.h"
#include "storage/uring_reader.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::first_wrong;
using testing::in_child;
using testing::ScriptedFeed;

constexpr std::uint64_t kRead = 64 << 10;
constexpr std::uint64_t kSize = 64 * kRead + 12345;
constexpr std::uint64_t kSeed = 7;

class ReadingMarkTest : public ::testing::Test {
 protected:
  void SetUp() override { testing::write_pattern_file(path_, kSize, kSeed); }
  std::shared_ptr<LocalFile> open() const { return *LocalFile::open(path_); }
  static std::shared_ptr<LocalFile::Handle> handle(const LocalFile& file) { return *file.handle(); }

  testing::TempDir folder_;
  const std::string path_ = folder_ / "file";
  LogSink log_;
};

TEST_F(ReadingMarkTest, IsSeenByOthersAndNotByItsOwnHandle) {
  const auto mine = open();
  const auto theirs = open();
  {
    const ReadingMark mark(handle(*mine));
    EXPECT_FALSE(others_read(*handle(*mine)));
    EXPECT_TRUE(others_read(*handle(*theirs)));
    const ReadingMark also(handle(*theirs));
    EXPECT_TRUE(others_read(*handle(*mine)));
  }
  EXPECT_FALSE(others_read(*handle(*mine)));
  EXPECT_FALSE(others_read(*handle(*theirs)));
}

TEST_F(ReadingMarkTest, LastsAsLongAsTheLastOfAHandle) {
  const auto mine = open();
  const auto theirs = open();
  auto first = ReadingMark(handle(*mine));
  auto second = ReadingMark(handle(*mine));
  first = ReadingMark();
  EXPECT_TRUE(others_read(*handle(*theirs)));
  const ReadingMark moved(std::move(second));
  EXPECT_TRUE(others_read(*handle(*theirs)));
}

TEST_F(ReadingMarkTest, GoesWhileTheFileStaysMapped) {
  const auto mine = open();
  const auto theirs = open();
  const auto held = handle(*mine);
  void* mapped = ::mmap(nullptr, kSize, PROT_READ, MAP_PRIVATE, held->buffered.get(), 0);
  ASSERT_NE(mapped, MAP_FAILED);
  {
    const ReadingMark mark(held);
  }
  EXPECT_FALSE(others_read(*handle(*theirs)));
  ::munmap(mapped, kSize);
}

TEST_F(ReadingMarkTest, IsSeenByOtherProcessesAndEndsWithItsOwn) {
  const auto mine = open();
  {
    const ReadingMark mark(handle(*mine));
    EXPECT_EQ(in_child([&] { return others_read(*handle(*open())) ? 7 : 0; }), 7);
  }
  EXPECT_EQ(in_child([&] {
              static const auto file = open();
              static const ReadingMark dropped_by_nobody(handle(*file));
              return others_read(*handle(*mine)) ? 7 : 0;
            }),
            7);
  EXPECT_FALSE(others_read(*handle(*mine)));
}

TEST_F(ReadingMarkTest, StaysTheParentsAfterAFork) {
  const auto theirs = open();
  ReadingMark mark(handle(*open()));
  EXPECT_EQ(in_child([&] {
              mark = ReadingMark();
              return 0;
            }),
            0);
  EXPECT_TRUE(others_read(*handle(*theirs)));
}

class MarkedUringReader : public ReadingMarkTest {
 protected:
  void SetUp() override {
    if (const auto ring = IoRing::create(2); !ring.ok()) GTEST_SKIP() << ring.error().message;
    ReadingMarkTest::SetUp();
    testing::drop_from_cache(path_);
    if (cached() != 0 || open()->open_direct(*handle(*open())) != 0) GTEST_SKIP() << "no cold files here";
  }
  double cached() const { return cached_part(handle(*open())->buffered.get(), 0, kSize); }

  // Reads all of the file, and says how much of it is in the page cache then.
  double cached_after(bool heeds_others) {
    const auto file = open();
    ScriptedFeed feed(*file, kSize, kRead);
    UringOptions options;
    options.heeds_others = heeds_others;
    const auto reader = make_uring_reader(std::move(options), log_);
    EXPECT_TRUE(reader->start(feed).ok());
    EXPECT_TRUE(feed.wait_for_reports(feed.size()));
    reader->stop();
    EXPECT_TRUE(feed.errors().empty());
    EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
    return cached();
  }
};

TEST_F(MarkedUringReader, ReadsPastThePageCacheWhenItIsAlone) { EXPECT_EQ(cached_after(true), 0); }

TEST_F(MarkedUringReader, GoesThroughThePageCacheWithOthers) {
  const auto other = open();
  const ReadingMark mark(handle(*other));
  EXPECT_EQ(cached_after(true), 1);
  const auto lines = log_.drain();
  ASSERT_EQ(lines.size(), 1U);
  EXPECT_EQ(lines[0].level, LogLevel::kInfo);
  EXPECT_NE(lines[0].text.find("others read it at the same time"), std::string::npos);
}

TEST_F(MarkedUringReader, LooksForNobodyUnlessItIsTold) {
  const auto other = open();
  const ReadingMark mark(handle(*other));
  EXPECT_EQ(cached_after(false), 0);
}

TEST_F(MarkedUringReader, IsMarkedWhileItReadsAndNoLonger) {
  const auto file = open();
  const auto theirs = open();
  ScriptedFeed feed(*file, kSize, kRead);
  feed.allow(1);
  bool marked = false;
  feed.on_empty_pull([&] { marked = others_read(*handle(*theirs)); });  // the first read is under way
  UringOptions options;
  options.heeds_others = true;
  const auto reader = make_uring_reader(std::move(options), log_);
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(feed.wait_for_reports(1));
  EXPECT_TRUE(testing::eventually([&] { return !others_read(*handle(*theirs)); }));
  reader->stop();
  EXPECT_TRUE(marked);
}

}  // namespace
}  // namespace weightstream
