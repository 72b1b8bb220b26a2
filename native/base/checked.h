// Arithmetic on sizes and offsets that come from a file. Every sum and product of such numbers goes through here.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>

namespace weightstream {

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_add(T a, T b) {
  T sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

template <std::unsigned_integral T>
[[nodiscard]] constexpr std::optional<T> checked_mul(T a, T b) {
  T product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// `multiple` is a power of two. align_up saturates to the largest multiple instead of wrapping.
[[nodiscard]] constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t multiple) {
  return value & ~(multiple - 1);
}
[[nodiscard]] constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t multiple) {
  const auto padded = checked_add(value, multiple - 1);
  return align_down(padded.value_or(UINT64_MAX), multiple);
}

}  // namespace weightstream
