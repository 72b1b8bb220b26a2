// The text of a request for one range of an object. RFC 9112, section 3; RFC 9110, section 14.2.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace weightstream {

struct HttpRequestParts {
  const std::string& url;
  ByteRange range;
  const std::string& if_match;                // an entity tag, or empty
  const std::vector<std::string>* headers;    // "Name: value", in place of ours of the same name; null: none
  const std::string& user_agent;
};

// A GET with everything up to the empty line. Userinfo of the URL becomes Basic authorization (RFC 7617), unless the
// headers have their own.
[[nodiscard]] std::string http_request(const HttpRequestParts& parts);

}  // namespace weightstream
