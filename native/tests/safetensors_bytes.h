// Safetensors files as byte strings, for tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "format/header.h"

namespace weightstream::testing {

// A string literal with its NUL characters.
template <std::size_t N>
std::string bytes(const char (&literal)[N]) {
  return std::string(literal, N - 1);
}

inline std::string little_endian(std::uint64_t value) {
  std::string out;
  for (int i = 0; i < 8; ++i) out += static_cast<char>(value >> (8 * i) & 0xFFU);
  return out;
}

// A whole file: the length, the header as given, and `data` zero bytes.
inline std::string file_of(std::string_view header, std::size_t data = 0) {
  return little_endian(header.size()) + std::string(header) + std::string(data, '\0');
}

// Reads the header of a whole file as the engine does.
inline Result<Header> read_header(std::string_view file) {
  const auto all = std::as_bytes(std::span(file));
  auto length = header_length(all, file.size());
  if (!length) return std::move(length).error();
  HeaderBytes json(*length);
  std::memcpy(json.data(), file.data() + kHeaderPrefixBytes, *length);
  return parse_header(json, file.size());
}

}  // namespace weightstream::testing
