// Finding, opening and refusing cuFile, and what its functions return. What is remembered for the life of a process is
// tested in children.
#include "device/cufile.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "device/accelerator.h"
#include "fake_driver/loaded_fake.h"
#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::in_child;

constexpr const char* kVariable = "WEIGHTSTREAM_CUFILE_LIBRARY";
constexpr std::uint64_t kSize = 10'000;
constexpr std::uint64_t kSeed = 3;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class CuFileTest : public ::testing::Test {
 protected:
  [[nodiscard]] Error refusal(const std::string& library) const {
    auto cufile = CuFile::open(library);
    EXPECT_FALSE(cufile.ok());
    return cufile.ok() ? Error{} : cufile.error();
  }
  [[nodiscard]] std::shared_ptr<const CuFile> open() const {
    auto cufile = CuFile::open(fake.path);
    EXPECT_TRUE(cufile.ok()) << cufile.error().message;
    return std::move(cufile).value();
  }

  testing::LoadedFake fake{Vendor::kCuda};
};

TEST_F(CuFileTest, RelativePathIsRefused) {
  for (const char* path : {"libcufile.so.0", "./libcufile.so", " /opt/libcufile.so"}) {
    const Error error = refusal(path);
    EXPECT_EQ(error.code, ErrorCode::kConfig) << path;
    EXPECT_TRUE(has(error.message, "absolute")) << error.message;
    EXPECT_TRUE(has(error.message, kVariable)) << error.message;
  }
}

TEST_F(CuFileTest, MissingLibraryIsNamed) {
  const Error named = refusal("/nowhere/libcufile.so");
  EXPECT_EQ(named.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(named.message, "/nowhere/libcufile.so")) << named.message;
  EXPECT_TRUE(has(named.message, kVariable)) << named.message;
  const auto found = CuFile::open("");
  if (found.ok()) GTEST_SKIP() << "this machine has one";
  EXPECT_EQ(found.error().code, ErrorCode::kDevice);
  EXPECT_TRUE(has(found.error().message, "libcufile.so.0")) << found.error().message;
  EXPECT_TRUE(has(found.error().message, "CUDA toolkit")) << found.error().message;
}

TEST_F(CuFileTest, AnotherLibraryIsNone) {
  const Error error = refusal(testing::kOldCudaDriver);
  EXPECT_EQ(error.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(error.message, "has no cuFileDriverOpen")) << error.message;
}

TEST_F(CuFileTest, SaysWhyItDoesNotStart) {
  fake.fail("cuFileDriverOpen", 1, 5001, 0);
  const Error error = refusal(fake.path);
  EXPECT_EQ(error.code, ErrorCode::kDevice);
  EXPECT_TRUE(has(error.message, "cuFileDriverOpen failed with CU_FILE_DRIVER_NOT_INITIALIZED (5001): the kernel"))
      << error.message;
  fake.fail("cuFileDriverOpen", 1, 999, 0);
  EXPECT_TRUE(has(refusal(fake.path).message, "CU_FILE_CUDA_DRIVER_ERROR (5011)"));
  fake.fail("cuFileDriverOpen", 1, 999, 0);
  EXPECT_TRUE(has(refusal(fake.path).message, "with CUDA error 999"));
}

TEST_F(CuFileTest, MayBeOpenAlready) {
  ASSERT_NE(open(), nullptr);
  EXPECT_TRUE(CuFile::open(fake.path).ok());
}

TEST_F(CuFileTest, TellsTheWayFromCompatibilityMode) {
  EXPECT_EQ(open()->way(), "nvidia-fs 2.17");
  fake.set_cufile(UINT64_MAX, 0, 0);
  EXPECT_EQ(open()->way(), "");
  fake.set_cufile(UINT64_MAX, 0, UINT32_MAX);
  EXPECT_EQ(open()->way(), "peer-to-peer DMA");
}

TEST_F(CuFileTest, UnknownStatusesHaveTheirNumber) {
  EXPECT_EQ(describe_cufile_status({.error = 5999}), "an unknown cuFile error (5999)");
  EXPECT_TRUE(describe_cufile_status({.error = 5008}).starts_with("CU_FILE_IO_NOT_SUPPORTED (5008): "));
}

TEST_F(CuFileTest, ProcessRemembersTheLibraryThatTheVariableNames) {
  EXPECT_EQ(in_child([&] {
              ::setenv(kVariable, fake.path.c_str(), 1);
              const auto first = CuFile::of_process();
              ::setenv(kVariable, "relative.so", 1);
              const auto second = CuFile::of_process();
              return first.ok() && second.ok() && *first == *second ? 0 : 1;
            }),
            0);
  EXPECT_EQ(in_child([&] {
              ::setenv(kVariable, "relative.so", 1);
              const auto first = CuFile::of_process();
              ::setenv(kVariable, fake.path.c_str(), 1);
              const auto second = CuFile::of_process();
              return !first.ok() && !second.ok() && second.error().code == ErrorCode::kConfig ? 0 : 1;
            }),
            0);
}

TEST_F(CuFileTest, IsNotForAForkedChild) {
  EXPECT_EQ(in_child([&] {
              ::setenv(kVariable, fake.path.c_str(), 1);
              const auto here = CuFile::of_process();
              if (!here.ok() || !(*here)->usable_here()) return 1;
              return in_child([&] {
                const auto there = CuFile::of_process();
                (*here)->deregister_file(nullptr);  // calls nothing
                const bool called = fake.violation()[0] != '\0';
                return there.ok() || (*here)->usable_here() || called ? 1 : 0;
              });
            }),
            0);
}

class CuFileRead : public CuFileTest {
 protected:
  void SetUp() override {
    auto driver = Driver::open(Vendor::kCuda, fake.path);
    ASSERT_TRUE(driver.ok());
    auto accelerator = Accelerator::open(std::move(*driver), 0);
    ASSERT_TRUE(accelerator.ok());
    accelerator_ = std::move(*accelerator);
    cufile_ = open();
    testing::write_pattern_file(folder_ / "file", kSize, kSeed);
    fd_ = ::open((folder_ / "file").c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT);
    if (fd_ < 0) GTEST_SKIP() << "the filesystem refuses O_DIRECT";
    memory_ = fake.allocate(kSize);
  }
  void TearDown() override {
    accelerator_.reset();
    if (fd_ >= 0) ::close(fd_);
    EXPECT_STREQ(fake.violation(), "");
  }
  // Returns what came, and errno.
  std::pair<std::int64_t, int> read(void* file, std::uint64_t to, std::uint64_t bytes, std::uint64_t offset) {
    std::pair<std::int64_t, int> got;
    EXPECT_TRUE(accelerator_->within([&]() -> Status {
      got.first = cufile_->read(file, to, bytes, offset);
      got.second = errno;
      return Ok{};
    }));
    return got;
  }

  testing::TempDir folder_;
  std::shared_ptr<Accelerator> accelerator_;
  std::shared_ptr<const CuFile> cufile_;
  int fd_ = -1;
  std::uint64_t memory_ = 0;
};

TEST_F(CuFileRead, ReadsAnyRangeToAnyAddress) {
  const auto file = cufile_->register_file(fd_);
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_EQ(read(*file, memory_ + 7, 4001, 5001).first, 4001);
  EXPECT_FALSE(testing::first_wrong(fake.content(memory_ + 7, 4001), kSeed, 5001));
  EXPECT_EQ(fake.content(memory_ + 6, 1), fake.content(memory_ + 7 + 4001, 1)) << "nothing else was written";
  EXPECT_EQ(read(*file, memory_, 10, kSize).first, 0) << "the end of the file";
  EXPECT_EQ(read(*file, memory_, 100, kSize - 40).first, 40);
  cufile_->deregister_file(*file);
  EXPECT_EQ(fake.counts().cufile_files, 0U);
}

TEST_F(CuFileRead, FailsWithErrnoOrAStatus) {
  const auto file = cufile_->register_file(fd_);
  ASSERT_TRUE(file.ok());
  fake.fail("cuFileRead", 1, EIO, 0);
  EXPECT_EQ(read(*file, memory_, 10, 0), std::pair(std::int64_t{-1}, EIO));
  fake.fail("cuFileRead", 1, 5009, 0);
  EXPECT_EQ(read(*file, memory_, 10, 0).first, -5009);
  cufile_->deregister_file(*file);
}

TEST_F(CuFileRead, SaysWhyAFileIsRefused) {
  const auto file = cufile_->register_file(fd_);
  ASSERT_TRUE(file.ok());
  const auto twice = cufile_->register_file(fd_);
  ASSERT_FALSE(twice.ok());
  EXPECT_EQ(twice.error().code, ErrorCode::kDevice);
  EXPECT_TRUE(has(twice.error().message, "cuFileHandleRegister failed with CU_FILE_HANDLE_ALREADY_REGISTERED (5028)"))
      << twice.error().message;
  cufile_->deregister_file(*file);
  const int buffered = ::open((folder_ / "file").c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_FALSE(cufile_->register_file(buffered).ok());
  ::close(buffered);
}

}  // namespace
}  // namespace weightstream
