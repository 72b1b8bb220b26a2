// A URL and its parts, by libcurl's own parser, so that what is checked is what is requested.
#pragma once

#include <curl/curl.h>

#include <string>

namespace weightstream {

class Url {
 public:
  explicit Url(const std::string& text);
  ~Url() { curl_url_cleanup(handle_); }
  Url(const Url&) = delete;
  Url& operator=(const Url&) = delete;

  [[nodiscard]] bool valid() const { return valid_; }
  // Goes to `location` as a reference from here; false when it cannot be understood.
  [[nodiscard]] bool go_to(const std::string& location);
  void drop(CURLUPart part) { curl_url_set(handle_, part, nullptr, 0); }
  // Empty when there is none.
  [[nodiscard]] std::string part(CURLUPart part, unsigned flags = 0) const;

 private:
  CURLU* handle_;
  bool valid_ = false;
};

// Scheme, host and port of a URL, "https://host:443"; empty when it is not an http(s) URL.
[[nodiscard]] std::string origin_of(const std::string& url);
// `location` as a server at `base` meant it; empty when it cannot be understood.
[[nodiscard]] std::string resolve_url(const std::string& base, const std::string& location);
// Without userinfo, query and fragment: fit to be printed.
[[nodiscard]] std::string printable_url(const std::string& url);

}  // namespace weightstream
