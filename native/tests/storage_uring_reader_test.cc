// The io_uring reader: on real files through the kernel, and on a ring that misbehaves as a script says.
#include "storage/uring_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <map>
#include <set>

#include "fake_io_ring.h"
#include "scripted_feed.h"
#include "storage/local_file.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::FakeIoRing;
using testing::first_wrong;
using testing::ScriptedFeed;
using testing::TempDir;

constexpr std::uint64_t kRead = 64 << 10;
constexpr std::uint64_t kSize = 20 * kRead + 12345;  // ends inside a block
constexpr std::uint64_t kSeed = 5;

UringOptions scripted(FakeIoRing::Script script) {
  UringOptions options;
  options.start_concurrency = options.most_concurrency = 4;
  options.create_ring = [script = std::move(script)](std::uint32_t) -> Result<std::unique_ptr<IoRing>> {
    return std::unique_ptr<IoRing>(std::make_unique<FakeIoRing>(script));
  };
  return options;
}

class UringReader : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_pattern_file(path_, kSize, kSeed);
    open();
  }
  void open() {
    auto opened = LocalFile::open(path_);
    ASSERT_TRUE(opened.ok());
    file_ = *opened;
  }

  // Reads the whole file; every request is reported when it returns.
  void read_all(ScriptedFeed& feed, UringOptions options) {
    const auto reader = make_uring_reader(std::move(options), log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(feed.size()));
    reader->stop();
  }
  void expect_all_bytes(FakeIoRing::Script script) {
    ScriptedFeed feed(*file_, kSize, kRead);
    read_all(feed, scripted(std::move(script)));
    EXPECT_TRUE(feed.errors().empty()) << feed.errors().front().message;
    EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
    retries_ = feed.retries();
  }

  TempDir folder_;
  const std::string path_ = folder_ / "file";
  std::shared_ptr<LocalFile> file_;
  LogSink log_;
  std::uint64_t retries_ = 0;
};

class KernelUringReader : public UringReader {
 protected:
  void SetUp() override {
    if (const auto ring = IoRing::create(2); !ring.ok()) GTEST_SKIP() << ring.error().message;
    UringReader::SetUp();
  }
};

TEST_F(KernelUringReader, ReadsAColdFile) {
  testing::drop_from_cache(path_);
  ScriptedFeed feed(*file_, kSize, kRead);
  read_all(feed, {});
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

TEST_F(KernelUringReader, KeepsManyReadsInFlightAndNoMoreThanAllowed) {
  ScriptedFeed feed(*file_, kSize, 4096);
  UringOptions options;
  options.start_concurrency = 8;
  options.most_concurrency = 16;
  read_all(feed, options);
  EXPECT_GE(feed.most_in_flight(), 8U);
  EXPECT_LE(feed.most_in_flight(), 16U);
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

TEST_F(KernelUringReader, FinishesAFileThatWasUnlinked) {
  ScriptedFeed feed(*file_, kSize, kRead);
  std::filesystem::remove(path_);
  read_all(feed, {});
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

TEST_F(KernelUringReader, StarvedReaderGoesOnWhenWoken) {
  ScriptedFeed feed(*file_, kSize, kRead);
  feed.allow(1);
  const auto reader = make_uring_reader({}, log_);
  ASSERT_TRUE(reader->start(feed).ok());
  for (std::size_t allowed = 1; allowed <= feed.size(); ++allowed) {
    const auto empty_pulls = feed.empty_pulls();
    feed.allow(allowed);
    reader->wake();
    ASSERT_TRUE(feed.wait_for_reports(allowed));
    ASSERT_TRUE(feed.wait_for_empty_pulls(empty_pulls + 1));
  }
  reader->stop();
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

TEST_F(KernelUringReader, WakeThatMeetsAnEmptyPullIsNotLost) {
  ScriptedFeed feed(*file_, kSize, kRead);
  feed.allow(0);
  const auto reader = make_uring_reader({}, log_);
  feed.on_empty_pull([&] {
    feed.allow(SIZE_MAX);
    reader->wake();
  });
  ASSERT_TRUE(reader->start(feed).ok());
  EXPECT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
}

// The file shrank after its header was read, to a size that is no multiple of a block.
TEST_F(KernelUringReader, ShrunkFileIsAnErrorAndNotAnEndlessLoop) {
  ScriptedFeed feed(*file_, kSize, kRead);
  std::filesystem::resize_file(path_, 3 * kRead + 100);
  read_all(feed, {});
  const auto errors = feed.errors();
  EXPECT_EQ(errors.size(), feed.size());  // what was read in full is not believed either: the file changed
  EXPECT_EQ(feed.error(3)->code, ErrorCode::kTruncated);
  EXPECT_EQ(feed.error(3)->got, 100U);
  EXPECT_EQ(feed.error(3)->expected, kRead);
  EXPECT_EQ(feed.error(3)->source, path_);
  EXPECT_EQ(feed.error(0)->code, ErrorCode::kSourceChanged);
}

TEST_F(KernelUringReader, RewrittenFileIsNotBelieved) {
  ScriptedFeed feed(*file_, kSize, kRead);
  testing::touch(path_);
  read_all(feed, {});
  for (const auto& error : feed.errors()) EXPECT_EQ(error.code, ErrorCode::kSourceChanged);
  EXPECT_EQ(feed.errors().size(), feed.size());
}

TEST_F(KernelUringReader, StopsWhileReading) {
  for (std::size_t after = 0; after < 5; ++after) {
    ScriptedFeed feed(*file_, kSize, 4096);
    const auto reader = make_uring_reader({}, log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(after));
    reader->stop();
    EXPECT_EQ(feed.pulled(), feed.reported());
    reader->stop();  // again does nothing
  }
}

TEST_F(UringReader, ResumesCompletionsThatAreShortAtAnyOffset) {
  for (const std::int32_t most : {1 << 14, 4097, 5000, 8191, 65535}) {
    FakeIoRing::Script script;
    script.result = [most](const FakeIoRing::Read&) { return most; };
    expect_all_bytes(script);
    EXPECT_GT(retries_, 0U) << most;
  }
}

// Less than a block at a time: a direct read cannot go on from there.
TEST_F(UringReader, ResumesCompletionsOfLessThanABlock) {
  FakeIoRing::Script script;
  script.result = [](const FakeIoRing::Read& read) { return read.direct ? 100 : 60000; };
  expect_all_bytes(script);
  EXPECT_GT(retries_, 0U);
}

TEST_F(UringReader, TakesCompletionsOutOfOrder) {
  FakeIoRing::Script script;
  script.newest_first = true;
  expect_all_bytes(script);
}

TEST_F(UringReader, TriesAgainAfterEintrAndEagain) {
  for (const int error : {EINTR, EAGAIN}) {
    auto failed = std::make_shared<std::set<std::uint64_t>>();
    FakeIoRing::Script script;
    script.result = [failed, error](const FakeIoRing::Read& read) {
      return failed->insert(read.offset).second ? -error : static_cast<std::int32_t>(read.length);
    };
    expect_all_bytes(script);
    EXPECT_EQ(retries_, failed->size());
  }
}

TEST_F(UringReader, GivesUpOnAReadThatIsRefusedForEver) {
  FakeIoRing::Script script;
  script.result = [](const FakeIoRing::Read& read) {
    return read.offset == kRead ? -EAGAIN : static_cast<std::int32_t>(read.length);
  };
  ScriptedFeed feed(*file_, kSize, kRead);
  read_all(feed, scripted(script));
  ASSERT_EQ(feed.errors().size(), 1U);
  EXPECT_EQ(feed.error(1)->system_errno, EAGAIN);
}

TEST_F(UringReader, ReadsThroughTheCacheWhereDirectReadsAreRefused) {
  for (const int error : {EINVAL, EOPNOTSUPP}) {
    open();
    FakeIoRing::Script script;
    script.result = [error](const FakeIoRing::Read& read) {
      return read.direct ? -error : static_cast<std::int32_t>(read.length);
    };
    expect_all_bytes(script);
  }
  EXPECT_EQ(log_.drain().size(), 1U) << "what two files share is said once";
}

TEST_F(UringReader, FailedReadNamesErrnoSourceAndRange) {
  for (std::size_t failing = 0; failing * kRead < kSize; ++failing) {
    FakeIoRing::Script script;
    script.result = [failing](const FakeIoRing::Read& read) {
      return read.offset == failing * kRead ? -EIO : static_cast<std::int32_t>(read.length);
    };
    ScriptedFeed feed(*file_, kSize, kRead);
    read_all(feed, scripted(script));
    ASSERT_EQ(feed.errors().size(), 1U);
    const auto error = feed.error(failing);
    ASSERT_TRUE(error.has_value());
    EXPECT_EQ(error->code, ErrorCode::kStorage);
    EXPECT_EQ(error->system_errno, EIO);
    EXPECT_EQ(error->source, path_);
    EXPECT_EQ(error->range, feed.request(failing).range());
  }
}

TEST_F(UringReader, EndOfFileInsideTheRangeIsTruncation) {
  FakeIoRing::Script script;
  script.result = [](const FakeIoRing::Read& read) {
    return read.offset >= 2 * kRead + 8192 && read.offset < 3 * kRead ? 0 : 8192;
  };
  ScriptedFeed feed(*file_, kSize, kRead);
  read_all(feed, scripted(script));
  ASSERT_EQ(feed.errors().size(), 1U);
  EXPECT_EQ(feed.error(2)->code, ErrorCode::kTruncated);
  EXPECT_EQ(feed.error(2)->got, 8192U);
}

// The k-th submission fails, for each k until one run is clean. Every request is reported in each.
TEST_F(UringReader, BrokenRingFailsEveryReadAndWaitsForNone) {
  std::uint32_t k = 1;
  for (bool clean = false; !clean; ++k) {
    ASSERT_LT(k, 1000U);
    FakeIoRing::Script script;
    script.breaks_at_submit = k;
    ScriptedFeed feed(*file_, kSize, kRead);
    read_all(feed, scripted(script));
    EXPECT_EQ(feed.pulled(), feed.size());
    for (const auto& error : feed.errors()) EXPECT_EQ(error.system_errno, EIO);
    clean = feed.errors().empty();
  }
  EXPECT_GT(k, 2U);
}

// The ring breaks while nothing is in flight: what comes later must fail rather than wait for a thread that is gone.
TEST_F(UringReader, RingThatBreaksWhileIdleFailsTheReadsToCome) {
  FakeIoRing::Script script;
  script.breaks_at_submit = 2;
  ScriptedFeed feed(*file_, kSize, kRead);
  feed.allow(0);
  const auto reader = make_uring_reader(scripted(script), log_);
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(feed.wait_for_empty_pulls(1));
  reader->wake();                             // the first submission returns; the second fails
  ASSERT_TRUE(feed.wait_for_empty_pulls(3));  // the last one after the failure
  feed.allow(SIZE_MAX);
  reader->wake();
  ASSERT_TRUE(feed.wait_for_reports(feed.size()));
  EXPECT_EQ(feed.errors().size(), feed.size());
  reader->stop();
}

TEST_F(UringReader, StopCancelsReadsThatHang) {
  FakeIoRing::Script script;
  script.result = [](const FakeIoRing::Read& read) {
    return read.offset % (2 * kRead) == 0 ? FakeIoRing::kHangs : static_cast<std::int32_t>(read.length);
  };
  ScriptedFeed feed(*file_, kSize, kRead);
  const auto reader = make_uring_reader(scripted(script), log_);
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(feed.wait_for_reports(3));  // the other places hang by now, or soon
  ASSERT_TRUE(feed.wait_for_pulls(7));
  reader->stop();
  EXPECT_EQ(feed.reported(), feed.pulled());
  EXPECT_EQ(feed.errors().size(), 4U);
  for (const auto& error : feed.errors()) EXPECT_EQ(error.code, ErrorCode::kClosed);
}

TEST_F(UringReader, RefusedRingFailsTheStart) {
  UringOptions options;
  options.create_ring = [](std::uint32_t) -> Result<std::unique_ptr<IoRing>> {
    return Error{.code = ErrorCode::kConfig, .message = "refused", .system_errno = EPERM};
  };
  ScriptedFeed feed(*file_, kSize, kRead);
  const auto reader = make_uring_reader(options, log_);
  const auto started = reader->start(feed);
  ASSERT_FALSE(started.ok());
  EXPECT_EQ(started.error().code, ErrorCode::kConfig);
  EXPECT_EQ(started.error().system_errno, EPERM);
  reader->stop();
  EXPECT_EQ(feed.pulled(), 0U);
}

TEST(IoRing, RefusalIsAConfigErrorThatSaysWhy) {
  const int outcome = testing::in_child([] {
    if (!testing::refuse_io_uring()) return 1;
    const auto ring = IoRing::create(4);
    if (ring.ok()) return 2;
    if (ring.error().code != ErrorCode::kConfig || ring.error().system_errno != EPERM) return 3;
    return ring.error().message.find("seccomp") == std::string::npos ? 4 : 0;
  });
  EXPECT_EQ(outcome, 0);
}

}  // namespace
}  // namespace weightstream
