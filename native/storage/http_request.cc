#include "storage/http_request.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <string_view>

#include "storage/url.h"

namespace weightstream {
namespace {

bool names(std::string_view header, std::string_view lower) {
  return header.size() > lower.size() && header[lower.size()] == ':' &&
         std::equal(lower.begin(), lower.end(), header.begin(),
                    [](char a, char b) { return a == std::tolower(static_cast<unsigned char>(b)); });
}

// RFC 4648, section 4.
std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    const auto group = bytes.substr(at, 3);
    std::uint32_t bits = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      bits = bits << 8 | (i < group.size() ? static_cast<unsigned char>(group[i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      text += i <= group.size() ? kDigits[bits >> (18 - 6 * i) & 63] : '=';
    }
  }
  return text;
}

// The host as the server knows it: without the port that goes without saying, and in ASCII.
std::string host_of(const Url& url) {
#if LIBCURL_VERSION_NUM >= 0x075800
  std::string host = url.part(CURLUPART_HOST, CURLU_PUNYCODE);
#else
  std::string host = url.part(CURLUPART_HOST);
#endif
  const std::string port = url.part(CURLUPART_PORT, CURLU_NO_DEFAULT_PORT);
  return port.empty() ? host : host + ":" + port;
}

}  // namespace

std::string http_request(const HttpRequestParts& parts) {
  const Url url(parts.url);
  const auto given = [&](std::string_view name) {
    return parts.headers != nullptr && std::any_of(parts.headers->begin(), parts.headers->end(),
                                                   [&](const std::string& header) { return names(header, name); });
  };
  std::string text = "GET " + url.part(CURLUPART_PATH);
  if (const auto query = url.part(CURLUPART_QUERY); !query.empty()) text += "?" + query;
  text += " HTTP/1.1\r\n";
  const auto line = [&](const std::string& header) { text += header + "\r\n"; };
  if (!given("host")) line("Host: " + host_of(url));
  if (!given("user-agent")) line("User-Agent: " + parts.user_agent);
  if (!given("accept")) line("Accept: */*");
  line("Accept-Encoding: identity");
  line("Range: bytes=" + std::to_string(parts.range.begin) + "-" + std::to_string(parts.range.end - 1));
  if (!parts.if_match.empty()) line("If-Match: " + parts.if_match);
  const auto user = url.part(CURLUPART_USER, CURLU_URLDECODE);
  const auto password = url.part(CURLUPART_PASSWORD, CURLU_URLDECODE);
  if (!(user.empty() && password.empty()) && !given("authorization")) {
    line("Authorization: Basic " + base64(user + ":" + password));
  }
  if (parts.headers != nullptr) {
    for (const auto& header : *parts.headers) line(header);
  }
  text += "\r\n";
  return text;
}

}  // namespace weightstream
