// Local files as sources: what is refused on sight, and how a change is noticed.
#include "storage/local_file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <vector>

#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

namespace fs = std::filesystem;
using testing::first_wrong;
using testing::in_child;
using testing::TempDir;
using testing::touch;
using testing::write_pattern_file;

constexpr std::uint64_t kSize = 100'000;

class LocalFileTest : public ::testing::Test {
 protected:
  std::shared_ptr<LocalFile> open() {
    auto file = LocalFile::open(path_);
    EXPECT_TRUE(file.ok()) << file.error().message;
    return *file;
  }
  static Error refusal(const std::string& path) {
    const auto file = LocalFile::open(path);
    if (!file.ok()) {
      EXPECT_EQ(file.error().source, path);
      return file.error();
    }
    ADD_FAILURE() << path << " was opened";
    return {};
  }

  TempDir folder_;
  const std::string path_ = folder_ / "file";
};

TEST_F(LocalFileTest, HasNameSizeAndBytes) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  EXPECT_EQ(file->name(), path_);
  EXPECT_EQ(file->size(), kSize);
  std::vector<std::byte> bytes(5000);
  const auto handle = file->handle();
  ASSERT_TRUE(handle.ok());
  ASSERT_TRUE(file->read_exactly((*handle)->buffered.get(), bytes.data(), 777, bytes.size()).ok());
  EXPECT_EQ(first_wrong(bytes, 1, 777), std::nullopt);
  EXPECT_TRUE(file->check_unchanged((*handle)->buffered.get()).ok());
}

TEST_F(LocalFileTest, DuplicateIsOfTheSameFileOnly) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  file->park();
  auto own = file->duplicate();
  ASSERT_TRUE(own.ok());
  std::vector<std::byte> bytes(5000);
  EXPECT_TRUE(file->read_exactly(own->get(), bytes.data(), 777, bytes.size()).ok());
  EXPECT_EQ(first_wrong(bytes, 1, 777), std::nullopt);
  const int fd = own->release();
  EXPECT_EQ(own->get(), -1);
  EXPECT_EQ(::close(fd), 0);
  write_pattern_file(path_, kSize + 1, 1);
  const auto changed = file->duplicate();
  ASSERT_FALSE(changed.ok());
  EXPECT_EQ(changed.error().code, ErrorCode::kSourceChanged);
}

TEST_F(LocalFileTest, MissingFile) {
  const auto error = refusal(path_);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.system_errno, ENOENT);
  EXPECT_EQ(error.message, "no such file");
}

TEST_F(LocalFileTest, FileUnderAFile) {
  write_pattern_file(path_, 1, 1);
  const auto error = refusal(path_ + "/below");
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_EQ(error.system_errno, ENOTDIR);
}

TEST_F(LocalFileTest, DanglingLinkSaysSo) {
  fs::create_symlink("nowhere", path_);
  const auto error = refusal(path_);
  EXPECT_EQ(error.code, ErrorCode::kNotFound);
  EXPECT_NE(error.message.find("dangling"), std::string::npos);
}

TEST_F(LocalFileTest, LinkToAFileIsFollowed) {
  write_pattern_file(folder_ / "target", kSize, 1);
  fs::create_symlink("target", path_);
  EXPECT_EQ(open()->size(), kSize);
}

TEST_F(LocalFileTest, WhatIsNoRegularFileIsNamed) {
  EXPECT_EQ(refusal("/").message, "this is a directory, not a regular file");
  EXPECT_EQ(refusal("/").code, ErrorCode::kConfig);
  EXPECT_EQ(refusal("/").system_errno, EISDIR);
  EXPECT_EQ(refusal("/dev/null").message, "this is a character device, not a regular file");

  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(refusal(path_).message, "this is a FIFO, not a regular file");  // and did not wait for a writer
  fs::remove(path_);

  const int listener = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  struct sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(path_.size(), sizeof address.sun_path);
  std::memcpy(address.sun_path, path_.c_str(), path_.size());
  ASSERT_EQ(::bind(listener, reinterpret_cast<struct sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(refusal(path_).message, "this is a socket, not a regular file");
  ::close(listener);
}

TEST_F(LocalFileTest, NulInAPathIsRefused) {
  const auto error = refusal(std::string("/dev/null\0.safetensors", 22));
  EXPECT_EQ(error.code, ErrorCode::kConfig);
}

TEST_F(LocalFileTest, ForbiddenFileIsAnAuthError) {
  write_pattern_file(path_, 10, 1);
  fs::permissions(path_, fs::perms::none);
  const int outcome = in_child([this] {
    // Root may read everything.
    if (::geteuid() == 0 && (::setgid(65534) != 0 || ::setuid(65534) != 0)) return 77;
    const auto file = LocalFile::open(path_);
    if (file.ok()) return 1;
    return file.error().code == ErrorCode::kAuth && file.error().system_errno == EACCES ? 0 : 2;
  });
  if (outcome == 77) GTEST_SKIP() << "runs as root, and may not become anybody else";
  EXPECT_EQ(outcome, 0);
}

TEST_F(LocalFileTest, LimitOfDescriptorsIsNamed) {
  write_pattern_file(path_, 10, 1);
  const int outcome = in_child([this] {
    struct rlimit limit{};
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
    const auto file = LocalFile::open(path_);
    if (file.ok()) return 2;
    if (file.error().code != ErrorCode::kStorage || file.error().system_errno != EMFILE) return 3;
    return file.error().message.find("ulimit -n") == std::string::npos ? 4 : 0;
  });
  EXPECT_EQ(outcome, 0);
}

TEST_F(LocalFileTest, EndBeforeTheRangeSaysWhere) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  fs::resize_file(path_, 1000);
  std::vector<std::byte> bytes(500);
  const auto read = file->read_exactly((*file->handle())->buffered.get(), bytes.data(), 800, 500);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::kTruncated);
  EXPECT_EQ(read.error().source, path_);
  EXPECT_EQ(read.error().range, (ByteRange{800, 1300}));
  EXPECT_EQ(read.error().got, 200U);
  EXPECT_EQ(read.error().expected, 500U);
}

TEST_F(LocalFileTest, FailedReadKeepsItsErrno) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  std::byte byte{};
  const auto read = file->read_exactly(-1, &byte, 5, 1);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::kStorage);
  EXPECT_EQ(read.error().system_errno, EBADF);
  EXPECT_EQ(read.error().range, (ByteRange{5, 6}));
}

TEST_F(LocalFileTest, ChangesAreTold) {
  write_pattern_file(path_, kSize, 1);
  const auto touched = open();
  touch(path_);
  const auto written = touched->check_unchanged((*touched->handle())->buffered.get());
  ASSERT_FALSE(written.ok());
  EXPECT_EQ(written.error().code, ErrorCode::kSourceChanged);
  EXPECT_NE(written.error().message.find("written to"), std::string::npos);

  const auto resized = open();
  fs::resize_file(path_, kSize + 1);
  const auto grown = resized->check_unchanged((*resized->handle())->buffered.get());
  ASSERT_FALSE(grown.ok());
  EXPECT_EQ(grown.error().code, ErrorCode::kSourceChanged);
  EXPECT_EQ(grown.error().expected, kSize);
  EXPECT_EQ(grown.error().got, kSize + 1);
}

TEST_F(LocalFileTest, ReplacedOrUnlinkedFileIsReadFromTheOpenDescriptor) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  write_pattern_file(folder_ / "new", kSize, 2);
  fs::rename(folder_ / "new", path_);
  for (int round = 0; round < 2; ++round) {
    const auto handle = file->handle();
    ASSERT_TRUE(handle.ok());
    std::vector<std::byte> bytes(kSize);
    ASSERT_TRUE(file->read_exactly((*handle)->buffered.get(), bytes.data(), 0, kSize).ok());
    EXPECT_EQ(first_wrong(bytes, 1, 0), std::nullopt);
    EXPECT_TRUE(file->check_unchanged((*handle)->buffered.get()).ok());
    fs::remove(path_);
  }
}

TEST_F(LocalFileTest, ParkedFileIsOpenedAgain) {
  write_pattern_file(path_, kSize, 1);
  const auto before = testing::count_descriptors();
  const auto file = open();
  file->park();
  EXPECT_EQ(testing::count_descriptors(), before);
  {
    const auto handle = file->handle();
    ASSERT_TRUE(handle.ok());
    const auto same = file->handle();  // shared while it is open
    EXPECT_EQ(handle->get(), same->get());
    EXPECT_EQ(testing::count_descriptors(), before + 1);
  }
  EXPECT_EQ(testing::count_descriptors(), before);
}

TEST_F(LocalFileTest, ParkedFileMustBeTheSameWhenItIsOpenedAgain) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  file->park();
  write_pattern_file(folder_ / "new", kSize, 2);
  fs::rename(folder_ / "new", path_);
  const auto replaced = file->handle();
  ASSERT_FALSE(replaced.ok());
  EXPECT_EQ(replaced.error().code, ErrorCode::kSourceChanged);
  EXPECT_NE(replaced.error().message.find("another file"), std::string::npos);
  fs::remove(path_);
  const auto gone = file->handle();
  ASSERT_FALSE(gone.ok());
  EXPECT_EQ(gone.error().code, ErrorCode::kNotFound);
}

TEST_F(LocalFileTest, HandleInUseSurvivesParking) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  const auto held = file->handle();
  file->park();
  fs::remove(path_);
  const auto again = file->handle();
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->get(), held->get());
}

TEST_F(LocalFileTest, DirectDescriptorOpensTheSameFile) {
  write_pattern_file(path_, kSize, 1);
  const auto file = open();
  const auto handle = *file->handle();
  write_pattern_file(folder_ / "new", kSize, 2);
  fs::rename(folder_ / "new", path_);
  const int refused = file->open_direct(*handle);
  if (refused != 0) {
    EXPECT_NE(file->open_direct(*handle), 0) << "the refusal is remembered";
    GTEST_SKIP() << "O_DIRECT is refused here";
  }
  EXPECT_TRUE(file->check_unchanged(handle->direct.get()).ok());
  const int fd = handle->direct.get();
  EXPECT_EQ(file->open_direct(*handle), 0);
  EXPECT_EQ(handle->direct.get(), fd) << "opened once";
}

}  // namespace
}  // namespace weightstream
