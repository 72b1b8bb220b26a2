#include "format/foreign_content.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace weightstream {
namespace {

struct Kind {
  std::string_view beginning;  // lower case
  std::string_view sentence;
};

constexpr std::string_view kWebPage =
    "this is an HTML page, not a safetensors file: a server answered with a web page (login, error or landing page) "
    "when the file was downloaded; download the file itself";

constexpr std::array<Kind, 5> kKinds = {{
    {"version https://git-lfs",
     "this is a Git LFS pointer, not the file it stands for: fetch the file with 'git lfs pull'"},
    {"<!doctype html", kWebPage},
    {"<html", kWebPage},
    {"<?xml",
     "this is an XML document, not a safetensors file: often the error response of an object store, saved in its "
     "place"},
    {"pk\x03\x04",
     "this is a zip archive, not a safetensors file: often a PyTorch checkpoint (.pt, .bin), which has to be "
     "converted"},
}};

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

std::string_view without_leading_blanks(std::string_view text) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return text.substr(std::min(first, text.size()));
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

}  // namespace

std::optional<std::string> name_foreign_content(std::span<const std::byte> prefix) {
  // bytes of a file, read as text
  const std::string_view text =
      without_leading_blanks({reinterpret_cast<const char*>(prefix.data()), prefix.size()});  // NOLINT
  for (const Kind& kind : kKinds) {
    const std::string_view start = text.substr(0, kind.beginning.size());
    if (std::ranges::equal(start, kind.beginning, {}, lower)) return std::string(kind.sentence);
  }
  return std::nullopt;
}

}  // namespace weightstream
