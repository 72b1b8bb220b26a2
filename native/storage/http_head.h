// The head of an HTTP response: what the reader needs of it, and nothing else. Sizes are bounded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/error.h"

namespace weightstream {

// "bytes begin-last/total", as a half-open range; an unsatisfied one ("bytes */total") has only a total.
// RFC 9110, section 14.4.
struct ContentRange {
  std::optional<ByteRange> range;
  std::optional<std::uint64_t> total;
};
[[nodiscard]] std::optional<ContentRange> parse_content_range(std::string_view value);

class HttpHead {
 public:
  // Takes one line, with or without its end; a status line starts anew (after 100 Continue). False: too much of it.
  [[nodiscard]] bool add(std::string_view line);

  int status = 0;
  std::optional<std::uint64_t> content_length;
  bool unclear_length = false;  // a Content-Length that is no number, or two that differ
  std::string transfer_encoding;
  bool keeps_alive = false;  // the connection, after this response
  std::string content_range;
  std::string content_encoding;
  std::string etag;
  std::string last_modified;
  std::string version_id;  // S3 version, GCS generation or Azure version, whichever there is
  std::string location;
  std::string service_code;  // where a service puts it into a header
  std::string request_id;
  std::string bucket_region;  // what S3 says to those who ask in the wrong one
  std::string retry_after;  // seconds, or a date

 private:
  std::size_t bytes_ = 0;
};

// The service's own code from the body of an error response: XML (S3, GCS, Azure) or JSON (GCS, the Hub). Empty when
// there is none. Never anything else from the body: it may repeat what was sent.
[[nodiscard]] std::string service_code_of(std::string_view body);

}  // namespace weightstream
