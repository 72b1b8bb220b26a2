// Which reader suits a file. What the kernel and the filesystem allow differs between machines: where the answer
// depends on them, the test asks first.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "process_state.h"
#include "storage/io_ring.h"
#include "storage/local_probe.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::TempDir;
using testing::write_pattern_file;

constexpr std::uint64_t kSize = 8 << 20;

std::shared_ptr<LocalFile> made_in(const TempDir& folder) {
  write_pattern_file(folder / "file", kSize, 1);
  auto file = LocalFile::open(folder / "file");
  EXPECT_TRUE(file.ok());
  return *file;
}

double cached(const LocalFile& file) { return cached_fraction((*file.handle())->buffered.get(), file.size()); }

TEST(LocalProbe, ForcedBackendIsObeyed) {
  const TempDir folder;
  const auto file = made_in(folder);
  const auto pread = LocalProbe(Backend::kPread).choose(*file);
  ASSERT_TRUE(pread.ok());
  EXPECT_EQ(pread->kind, ReaderKind::kPread);
  EXPECT_EQ(pread->reason, "backend=\"pread\" was asked for: parallel pread");
  const auto mmap = LocalProbe(Backend::kMmap).choose(*file);
  ASSERT_TRUE(mmap.ok());
  EXPECT_EQ(mmap->kind, ReaderKind::kMmap);
  EXPECT_EQ(mmap->reason, "backend=\"mmap\" was asked for: a private mapping");
  if (!IoRing::create(2).ok()) return;
  const auto uring = LocalProbe(Backend::kUring).choose(*file);
  ASSERT_TRUE(uring.ok());
  EXPECT_EQ(uring->kind, ReaderKind::kUring);
  EXPECT_EQ(uring->reason, "backend=\"uring\" was asked for: io_uring");
}

TEST(LocalProbe, ForcedRingThatIsRefusedIsAnError) {
  const TempDir folder;
  const auto file = made_in(folder);
  const int outcome = testing::in_child([&] {
    if (!testing::refuse_io_uring()) return 1;
    const auto choice = LocalProbe(Backend::kUring).choose(*file);
    if (choice.ok()) return 2;
    if (choice.error().code != ErrorCode::kConfig) return 3;
    return choice.error().message.find("backend=\"auto\"") == std::string::npos ? 4 : 0;
  });
  EXPECT_EQ(outcome, 0);
}

TEST(LocalProbe, RefusedRingMeansThreads) {
  const TempDir folder;
  const auto file = made_in(folder);
  testing::drop_from_cache(file->name());
  const int outcome = testing::in_child([&] {
    if (!testing::refuse_io_uring()) return 1;
    const auto choice = LocalProbe(Backend::kAuto).choose(*file);
    return choice.ok() && choice->kind == ReaderKind::kPread ? 0 : 2;
  });
  EXPECT_EQ(outcome, 0);
}

TEST(LocalProbe, WarmFileIsReadThroughTheCache) {
  const TempDir folder;
  const auto file = made_in(folder);  // written a moment ago
  if (cached(*file) < 0) GTEST_SKIP() << "this kernel does not tell what is cached";
  EXPECT_GT(cached(*file), 0.9);
  const auto choice = LocalProbe(Backend::kAuto).choose(*file);
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->kind, ReaderKind::kPread);
}

TEST(LocalProbe, ColdFileIsReadPastTheCacheWherePossible) {
  const TempDir folder;
  const auto file = made_in(folder);
  testing::drop_from_cache(file->name());
  if (cached(*file) > 0.1) GTEST_SKIP() << "this filesystem keeps its files cached";
  const auto choice = LocalProbe(Backend::kAuto).choose(*file);
  ASSERT_TRUE(choice.ok());
  EXPECT_FALSE(choice->reason.empty());
  const auto handle = *file->handle();
  const bool possible = IoRing::create(2).ok() && file->open_direct(*handle) == 0;
  if (!possible) {
    EXPECT_EQ(choice->kind, ReaderKind::kPread);
  } else if (choice->reason.starts_with("cold file")) {
    EXPECT_EQ(choice->kind, ReaderKind::kUring);
  } else {
    EXPECT_EQ(choice->kind, ReaderKind::kPread) << choice->reason;  // a network filesystem, by its name
  }
}

TEST(LocalProbe, HalfWarmFileCountsByTheHalf) {
  const TempDir folder;
  const auto file = made_in(folder);
  testing::drop_from_cache(file->name());
  if (cached(*file) > 0.1) GTEST_SKIP() << "this filesystem keeps its files cached";
  const auto handle = *file->handle();
  ::posix_fadvise(handle->buffered.get(), 0, 0, POSIX_FADV_RANDOM);  // no reading ahead
  std::vector<std::byte> bytes(kSize / 2);
  ASSERT_TRUE(file->read_exactly(handle->buffered.get(), bytes.data(), 0, bytes.size()).ok());
  EXPECT_NEAR(cached(*file), 0.5, 0.2);
}

TEST(LocalProbe, LookingDoesNotWarm) {
  const TempDir folder;
  const auto file = made_in(folder);
  testing::drop_from_cache(file->name());
  const int fd = (*file->handle())->buffered.get();
  if (cached_without_waiting(fd, kSize) != 0) GTEST_SKIP() << "this filesystem does not say, or keeps its files cached";
  for (int again = 0; again < 3; ++again) {
    ::usleep(10'000);  // what the kernel began to read is there by now
    EXPECT_LT(cached_without_waiting(fd, kSize), 0.3);
  }
}

TEST(LocalProbe, TmpfsIsReadByThreads) {
  struct statfs status{};
  constexpr long kTmpfs = 0x01021994;
  if (::statfs("/dev/shm", &status) != 0 || status.f_type != kTmpfs || ::access("/dev/shm", W_OK) != 0) {
    GTEST_SKIP() << "/dev/shm is no tmpfs that can be written to";
  }
  const TempDir folder("/dev/shm");
  const auto choice = LocalProbe(Backend::kAuto).choose(*made_in(folder));
  ASSERT_TRUE(choice.ok());
  EXPECT_EQ(choice->kind, ReaderKind::kPread);
  EXPECT_NE(choice->reason.find("tmpfs"), std::string::npos) << choice->reason;
}

TEST(LocalProbe, TinyAndEmptyFilesHaveAnAnswer) {
  const TempDir folder;
  for (const std::uint64_t size : {0, 1, 4095, 4097}) {
    write_pattern_file(folder / "tiny", size, 1);
    const auto file = LocalFile::open(folder / "tiny");
    ASSERT_TRUE(file.ok());
    EXPECT_LE(cached(**file), 1.0);
    EXPECT_TRUE(LocalProbe(Backend::kAuto).choose(**file).ok());
  }
}

TEST(LocalProbe, FileThatIsGoneIsTheHandlesError) {
  const TempDir folder;
  const auto file = made_in(folder);
  file->park();
  std::filesystem::remove(file->name());
  const auto choice = LocalProbe(Backend::kAuto).choose(*file);
  ASSERT_FALSE(choice.ok());
  EXPECT_EQ(choice.error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace weightstream
