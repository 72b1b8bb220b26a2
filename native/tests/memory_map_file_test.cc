// The arena that maps a file: the bytes are the file's, writes stay in the process.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <string>

#include "memory/arena.h"
#include "process_state.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::first_wrong;
using testing::TempDir;
using testing::write_pattern_file;

constexpr std::uint64_t kBlock = Arena::kBlockBytes;

class MappedFile : public ::testing::Test {
 protected:
  std::shared_ptr<Arena> map(std::uint64_t size) {
    write_pattern_file(path_, size, 1);
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    auto arena = Arena::map_file(fd, size);
    ::close(fd);
    EXPECT_TRUE(arena.ok());
    return std::move(arena).value();
  }

  TempDir folder_;
  const std::string path_ = folder_ / "file";
};

TEST_F(MappedFile, HasTheBytesOfTheFileAtTheirOffsets) {
  const auto arena = map(10000);
  EXPECT_EQ(first_wrong({arena->at(0), 10000}, 1, 0), std::nullopt);
  EXPECT_GE(arena->capacity(), 10000U);
}

TEST_F(MappedFile, IsCopiedOnWrite) {
  const auto arena = map(10000);
  std::memset(arena->at(5000), 0, 100);
  EXPECT_EQ(first_wrong({arena->at(0), 5000}, 1, 0), std::nullopt);
  const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  const auto again = Arena::map_file(fd, 10000);
  ::close(fd);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(first_wrong({(*again)->at(0), 10000}, 1, 0), std::nullopt) << "the write went to the file";
}

TEST_F(MappedFile, OutlivesTheFileAndKeepsWhatWasWritten) {
  auto arena = map(3 * kBlock);
  const ByteRange first{0, kBlock};
  const ByteRange second{kBlock, 3 * kBlock - 5};
  arena->hold(first);
  arena->hold(second);
  auto dropped = arena->lease(first);
  const auto kept = arena->lease(second);
  std::memset(kept.data(), 0x55, 10);
  ::unlink(path_.c_str());
  dropped = Lease();
  arena.reset();
  EXPECT_EQ(kept.data()[9], std::byte{0x55});
  EXPECT_EQ(first_wrong({kept.data() + 10, kept.size() - 10}, 1, kBlock + 10), std::nullopt);
}

TEST_F(MappedFile, CanBeEmpty) {
  const auto arena = map(0);
  arena->hold({0, 0});
  EXPECT_EQ(arena->lease({0, 0}).size(), 0U);
}

TEST_F(MappedFile, OfADescriptorThatCannotBeMappedIsAnError) {
  int pipe[2];
  ASSERT_EQ(::pipe(pipe), 0);
  const auto arena = Arena::map_file(pipe[0], 100);
  ::close(pipe[0]);
  ::close(pipe[1]);
  ASSERT_FALSE(arena.ok());
  EXPECT_EQ(arena.error().code, ErrorCode::kStorage);
  EXPECT_NE(arena.error().system_errno, 0);
}

// Whether the mapping that contains `address` was advised to have huge pages.
bool advised_huge(const void* address) {
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long begin = 0;
    unsigned long end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &begin, &end) == 2) {
      const auto value = reinterpret_cast<unsigned long>(address);
      inside = begin <= value && value < end;
    } else if (inside && line.starts_with("VmFlags:")) {
      return line.find(" hg") != std::string::npos;
    }
  }
  return false;
}

// The mapping ends inside a block; the advice for whole blocks must not reach what lies behind it.
TEST_F(MappedFile, AdviceForHugePagesStaysInsideTheMapping) {
  const auto size = 2 * kBlock + kBlock * 3 / 4;
  const auto arena = map(size);
  // When the page behind it is taken already, that mapping serves as well.
  std::byte* behind = arena->at(arena->capacity());
  ::mmap(behind, Arena::kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  ASSERT_FALSE(advised_huge(behind));
  arena->advise_huge({0, size});
  EXPECT_FALSE(advised_huge(behind));
}

}  // namespace
}  // namespace weightstream
