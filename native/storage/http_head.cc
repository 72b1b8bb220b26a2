#include "storage/http_head.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <utility>

namespace weightstream {
namespace {

constexpr std::size_t kMostHeadBytes = 64 << 10;
constexpr std::size_t kMostCodeBytes = 100;

std::string_view trim(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

bool same(std::string_view name, std::string_view lower) {
  return std::equal(name.begin(), name.end(), lower.begin(), lower.end(), [](char a, char b) {
    return std::tolower(static_cast<unsigned char>(a)) == static_cast<unsigned char>(b);
  });
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Codes and ids of services are words; anything else is not repeated to anyone.
std::string word(std::string_view text) {
  text = trim(text);
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) ||
           std::string_view("-_.:/+= ").find(c) != std::string_view::npos;
  });
  return plain && text.size() <= kMostCodeBytes ? std::string(text) : std::string();
}

}  // namespace

std::optional<ContentRange> parse_content_range(std::string_view value) {
  value = trim(value);
  if (value.size() < 6 || !same(value.substr(0, 5), "bytes") || value[5] != ' ') return std::nullopt;
  value = trim(value.substr(6));
  const auto slash = value.find('/');
  if (slash == std::string_view::npos) return std::nullopt;
  ContentRange result;
  if (value.substr(slash + 1) != "*") {
    result.total = number(value.substr(slash + 1));
    if (!result.total) return std::nullopt;
  }
  const auto range = value.substr(0, slash);
  if (range == "*") return result;
  const auto dash = range.find('-');
  if (dash == std::string_view::npos) return std::nullopt;
  const auto first = number(range.substr(0, dash));
  const auto last = number(range.substr(dash + 1));
  if (!first || !last || *last < *first || *last == UINT64_MAX) return std::nullopt;
  if (result.total && *last >= *result.total) return std::nullopt;
  result.range = ByteRange{*first, *last + 1};
  return result;
}

bool HttpHead::add(std::string_view line) {
  if (line.starts_with("HTTP/")) {
    const auto bytes = bytes_;
    *this = HttpHead();
    bytes_ = bytes;
    const auto space = line.find(' ');
    keeps_alive = !line.starts_with("HTTP/1.0");
    if (space != std::string_view::npos) status = static_cast<int>(number(line.substr(space + 1, 3)).value_or(0));
  }
  bytes_ += line.size();
  if (bytes_ > kMostHeadBytes) return false;
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return true;
  const auto name = trim(line.substr(0, colon));
  const auto value = trim(line.substr(colon + 1));

  if (same(name, "content-length")) {
    const auto length = number(value);
    unclear_length = unclear_length || !length || (content_length && content_length != length);
    content_length = length;
  } else if (same(name, "transfer-encoding")) {
    if (!transfer_encoding.empty()) transfer_encoding += ", ";
    transfer_encoding += value;
  } else if (same(name, "connection")) {
    if (same(value, "close")) keeps_alive = false;
    if (same(value, "keep-alive")) keeps_alive = true;
  } else if (same(name, "content-range")) {
    content_range = value;
  } else if (same(name, "content-encoding")) {
    content_encoding = value;
  } else if (same(name, "etag")) {
    etag = value;
  } else if (same(name, "last-modified")) {
    last_modified = value;
  } else if (same(name, "location")) {
    location = value;
  } else if (same(name, "retry-after")) {
    retry_after = value;
  } else if (same(name, "x-amz-bucket-region")) {
    bucket_region = word(value);
  } else if (same(name, "x-amz-version-id") || same(name, "x-goog-generation") || same(name, "x-ms-version-id")) {
    version_id = value;
  } else if (same(name, "x-ms-error-code") || same(name, "x-error-code")) {
    service_code = word(value);
  } else if (same(name, "x-amz-request-id") || same(name, "x-ms-request-id") || same(name, "x-guploader-uploadid") ||
             (same(name, "x-request-id") && request_id.empty())) {
    request_id = word(value);
  }
  return true;
}

std::string service_code_of(std::string_view body) {
  const auto between = [&](std::string_view open, std::string_view close) -> std::string_view {
    const auto begin = body.find(open);
    if (begin == std::string_view::npos) return {};
    const auto end = body.find(close, begin + open.size());
    if (end == std::string_view::npos) return {};
    return body.substr(begin + open.size(), end - begin - open.size());
  };
  if (const auto code = between("<Code>", "</Code>"); !code.empty()) return word(code);
  // {"error": {"errors": [{"reason": "notFound"}]}}
  const auto reason = body.find("\"reason\"");
  if (reason == std::string_view::npos) return {};
  body = trim(body.substr(reason + 8));
  if (!body.starts_with(':')) return {};
  body = trim(body.substr(1));
  return body.starts_with('"') ? word(between("\"", "\"")) : std::string();  // a number or null is no name
}

}  // namespace weightstream
