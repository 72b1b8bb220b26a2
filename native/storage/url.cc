#include "storage/url.h"

#include <algorithm>
#include <memory>

namespace weightstream {

Url::Url(const std::string& text) : handle_(curl_url()) {
  if (handle_ != nullptr) valid_ = curl_url_set(handle_, CURLUPART_URL, text.c_str(), 0) == CURLUE_OK;
}

bool Url::go_to(const std::string& location) {
  return valid_ && curl_url_set(handle_, CURLUPART_URL, location.c_str(), 0) == CURLUE_OK;
}

std::string Url::part(CURLUPart part, unsigned flags) const {
  char* text = nullptr;
  if (!valid_ || curl_url_get(handle_, part, &text, flags) != CURLUE_OK) return {};
  const std::unique_ptr<char, decltype(&curl_free)> owned(text, &curl_free);
  return text;
}

std::string origin_of(const std::string& url) {
  const Url parsed(url);
  const std::string scheme = parsed.part(CURLUPART_SCHEME);
  if (scheme != "http" && scheme != "https") return {};
  std::string host = parsed.part(CURLUPART_HOST);
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  return scheme + "://" + host + ":" + parsed.part(CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

std::string resolve_url(const std::string& base, const std::string& location) {
  Url url(base);
  return url.go_to(location) ? url.part(CURLUPART_URL) : std::string();
}

std::string printable_url(const std::string& url) {
  Url parsed(url);
  if (!parsed.valid()) return "(a URL that cannot be parsed)";
  for (const auto part : {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_OPTIONS, CURLUPART_QUERY, CURLUPART_FRAGMENT}) {
    parsed.drop(part);
  }
  return parsed.part(CURLUPART_URL);
}

}  // namespace weightstream
