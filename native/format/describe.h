// How names, shapes and JSON tokens of a file appear in messages: escaped, so that a hostile name cannot forge a log
// line or drive a terminal, and cut to a length that a line can hold.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace weightstream {

// The text in single quotes. Control characters become \xNN; a text over 100 bytes is cut and its length is told.
// `text` must be UTF-8.
[[nodiscard]] std::string quoted_text(std::string_view text);

// "[2, 3]"; only the first 8 dimensions of a longer shape.
[[nodiscard]] std::string shape_text(std::span<const std::uint64_t> shape);

// "1 byte", "20 bytes".
[[nodiscard]] std::string byte_count(std::uint64_t bytes);

// What a JSON value is, from its first token: "an object", "an array", or the token itself ("-1", "null", "\"F32\"").
[[nodiscard]] std::string json_value_text(std::string_view token);

}  // namespace weightstream
