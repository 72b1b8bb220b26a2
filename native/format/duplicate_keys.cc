#include "format/duplicate_keys.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <vector>

namespace weightstream {
namespace {

// Up to here, comparing every pair is cheaper than anything that allocates: the three keys of a tensor's entry.
constexpr std::size_t kFewKeys = 8;

std::optional<std::string_view> find_among_few(std::span<const std::string_view> keys) {
  for (std::size_t i = 1; i < keys.size(); ++i) {
    if (std::ranges::find(keys.first(i), keys[i]) != keys.first(i).end()) return keys[i];
  }
  return std::nullopt;
}

bool hashes_differ(std::span<const std::string_view> keys) {
  std::vector<std::size_t> hashes(keys.size());
  std::ranges::transform(keys, hashes.begin(), std::hash<std::string_view>{});
  std::ranges::sort(hashes);
  return std::ranges::adjacent_find(hashes) == hashes.end();
}

}  // namespace

std::optional<std::string_view> find_duplicate(std::span<std::string_view> keys) {
  if (keys.size() <= kFewKeys) return find_among_few(keys);
  // Most writers sort the names, so one pass over the keys usually settles it.
  const bool ascending = std::ranges::adjacent_find(keys, std::greater_equal<>{}) == keys.end();
  if (ascending || hashes_differ(keys)) return std::nullopt;
  std::ranges::sort(keys);
  const auto twice = std::ranges::adjacent_find(keys);
  if (twice == keys.end()) return std::nullopt;
  return *twice;
}

}  // namespace weightstream
