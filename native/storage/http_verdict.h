// What a response, or the failure of a transport, means for a read. The one place where HTTP and libcurl become Errors.
#pragma once

#include <curl/curl.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "base/error.h"
#include "storage/http_head.h"
#include "storage/http_object.h"

namespace weightstream {

// What was asked for. While the size of the object is not known, `range` may end past it ("opening").
struct HttpAsked {
  const HttpObject* object = nullptr;
  ByteRange range;
  bool opening = false;
};

enum class Outcome : std::uint8_t {
  kBody,  // the body is what was asked for
  kRetry,  // may pass: try again
  kConnect,  // as kRetry, but there was not even a connection
  kThrottle,  // as kRetry, and leave the host alone for a while
  kRenew,  // the credentials may have ended
  kRedirect,  // to the head's location
  kFail,  // trying again changes nothing
};

struct Verdict {
  Outcome outcome = Outcome::kFail;
  Error error = {};  // for every outcome but kBody and kRedirect: what to say when it ends here
  ByteRange body = {};  // for kBody: the bytes of the object that follow
};

// Judges a head before anything of its body is kept; pins or compares the version of the object.
[[nodiscard]] Verdict judge_head(const HttpHead& head, const HttpAsked& asked);
// Judges an error response again when its body, which may name the service's code, is there.
[[nodiscard]] Verdict judge_error(const HttpHead& head, const HttpAsked& asked, std::string_view body);
// Judges the answer of a proxy that was asked for a tunnel and made none.
[[nodiscard]] Verdict judge_proxy(int status, const HttpAsked& asked);
// Judges a transfer that libcurl ended with `code`. `detail` is libcurl's message, `got` the bytes of `body` that came.
[[nodiscard]] Verdict judge_transport(CURLcode code, const std::string& detail, const HttpHead& head,
                                      const HttpAsked& asked, ByteRange body, std::uint64_t got);

// What to say of a redirect to `url`, which leads to an address of a scope that it must not.
[[nodiscard]] std::string misled(const std::string& url, AddressScope scope);

}  // namespace weightstream
