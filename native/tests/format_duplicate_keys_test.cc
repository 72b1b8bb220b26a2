#include "format/duplicate_keys.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

namespace weightstream {
namespace {

std::vector<std::string> numbered(std::size_t count) {
  std::vector<std::string> keys;
  keys.reserve(count);
  for (std::size_t i = 0; i < count; ++i) keys.push_back("layer." + std::to_string(i));
  return keys;
}

std::optional<std::string_view> find_in(const std::vector<std::string>& keys) {
  std::vector<std::string_view> views(keys.begin(), keys.end());
  return find_duplicate(views);
}

TEST(FindDuplicate, SettlesFewKeys) {
  EXPECT_EQ(find_in({}), std::nullopt);
  EXPECT_EQ(find_in({"a"}), std::nullopt);
  EXPECT_EQ(find_in({"shape", "dtype", "data_offsets"}), std::nullopt);
  EXPECT_EQ(find_in({"shape", "dtype", "shape"}), "shape");
  EXPECT_EQ(find_in({"", "a", ""}), "");
}

TEST(FindDuplicate, AcceptsManyDifferentKeysInAnyOrder) {
  auto keys = numbered(2000);
  EXPECT_EQ(find_in(keys), std::nullopt);
  std::ranges::sort(keys);
  EXPECT_EQ(find_in(keys), std::nullopt);
  std::ranges::reverse(keys);
  EXPECT_EQ(find_in(keys), std::nullopt);
}

TEST(FindDuplicate, FindsOneAmongMany) {
  auto keys = numbered(2000);
  keys.emplace_back("layer.7");
  EXPECT_EQ(find_in(keys), "layer.7");
  std::ranges::sort(keys);
  EXPECT_EQ(find_in(keys), "layer.7");
}

}  // namespace
}  // namespace weightstream
