// Copying past the caches: every alignment, and lengths around each threshold, with nothing written outside.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/streaming_copy.h"
#include "test_files.h"

namespace weightstream {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kGuard = 2 * kLine;
constexpr std::byte kUntouched{0xA5};

TEST(StreamingCopy, EveryAlignmentAndLength) {
  const std::size_t lengths[] = {0,    1,    15,   16,   63,   64,   65,   127,  4094, 4095,
                                 4096, 4097, 4111, 4159, 4160, 4161, 4223, 4224, 8191, 8193};
  std::vector<std::byte> source(8193 + kLine);
  testing::fill_pattern(source, 3, 0);
  std::vector<std::byte> memory(8193 + 3 * kLine + 2 * kGuard);
  const auto misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % kLine;
  std::byte* const line = memory.data() + (kLine - misaligned) % kLine + kGuard;
  for (std::size_t to = 0; to < kLine; ++to) {
    for (const std::size_t from : {0U, 1U, 8U, 15U, 16U, 33U, 63U}) {
      for (const std::size_t bytes : lengths) {
        std::fill(memory.begin(), memory.end(), kUntouched);
        std::byte* const begin = line + to;
        streaming_copy(begin, source.data() + from, bytes);
        const auto untouched = [](std::byte b) { return b == kUntouched; };
        ASSERT_TRUE(std::equal(begin, begin + bytes, source.data() + from)) << to << " " << from << " " << bytes;
        ASSERT_TRUE(std::all_of(memory.data(), begin, untouched)) << to << " " << from << " " << bytes;
        ASSERT_TRUE(std::all_of(begin + bytes, memory.data() + memory.size(), untouched))
            << to << " " << from << " " << bytes;
      }
    }
  }
}

}  // namespace
}  // namespace weightstream
