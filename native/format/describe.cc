#include "format/describe.h"

#include <cstddef>

namespace weightstream {
namespace {

constexpr std::size_t kLongestText = 100;
constexpr std::size_t kLongestShape = 8;

bool continues_character(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

// At most kLongestText bytes of `text`, never a part of a UTF-8 character.
std::string_view shortened(std::string_view text) {
  if (text.size() <= kLongestText) return text;
  std::size_t size = kLongestText;
  while (size > 0 && continues_character(text[size])) --size;
  return text.substr(0, size);
}

void append_hex(std::string& out, unsigned char byte) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  out += "\\x";
  out += kDigits[byte >> 4U];
  out += kDigits[byte & 0x0FU];
}

void append_escaped(std::string& out, std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool c1_control = byte == 0xC2U && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xA0U;
    if (byte < 0x20U || byte == 0x7FU) {
      append_hex(out, byte);
    } else if (c1_control) {
      append_hex(out, static_cast<unsigned char>(text[++i]));
    } else if (text[i] == '\\' || text[i] == '\'') {
      out += '\\';
      out += text[i];
    } else {
      out += text[i];
    }
  }
}

}  // namespace

std::string quoted_text(std::string_view text) {
  const std::string_view kept = shortened(text);
  std::string out = "'";
  append_escaped(out, kept);
  if (kept.size() < text.size()) {
    out += "...' (" + byte_count(text.size()) + ")";
  } else {
    out += '\'';
  }
  return out;
}

std::string shape_text(std::span<const std::uint64_t> shape) {
  std::string out = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i != 0) out += ", ";
    if (i == kLongestShape) {
      out += "...";
      break;
    }
    out += std::to_string(shape[i]);
  }
  return out + "]";
}

std::string byte_count(std::uint64_t bytes) { return std::to_string(bytes) + (bytes == 1 ? " byte" : " bytes"); }

std::string json_value_text(std::string_view token) {
  if (token.starts_with('{')) return "an object";
  if (token.starts_with('[')) return "an array";
  const std::size_t last = token.find_last_not_of(" \t\r\n");
  const std::string_view text = token.substr(0, last == std::string_view::npos ? 0 : last + 1);
  const std::string_view kept = shortened(text);
  std::string out;
  append_escaped(out, kept);
  if (kept.size() < text.size()) out += "... (" + byte_count(text.size()) + ")";
  return out;
}

}  // namespace weightstream
