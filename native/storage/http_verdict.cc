#include "storage/http_verdict.h"

#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

namespace weightstream {
namespace {

Error error_of(const HttpAsked& asked, const HttpHead& head, ErrorCode code, std::string message) {
  return {.code = code,
          .message = std::move(message),
          .source = asked.object->name(),
          .range = asked.range,
          .http_status = head.status,
          .service_code = head.service_code,
          .request_id = head.request_id};
}

Verdict protocol(const HttpAsked& asked, const HttpHead& head, std::string message) {
  return {Outcome::kFail, error_of(asked, head, ErrorCode::kProtocol, std::move(message))};
}

std::string text(ByteRange range) {
  return "bytes " + std::to_string(range.begin) + " to " + std::to_string(range.end);
}

Verdict judge_partial(const HttpHead& head, const HttpAsked& asked) {
  const auto answer = parse_content_range(head.content_range);
  if (!answer || !answer->range) {
    return protocol(asked, head,
                    head.content_range.empty() ? "the server answered 206 without Content-Range"
                                               : "the server answered 206 with a Content-Range that cannot be read");
  }
  const ByteRange range = *answer->range;
  // The version first: a smaller object is a changed one, not a wrong answer.
  if (!answer->total && asked.opening) return protocol(asked, head, "the server does not say how large the object is");
  const bool right_begin = range.begin == asked.range.begin;
  const bool right_end = range.end == (asked.opening ? std::min(asked.range.end, *answer->total) : asked.range.end);
  if (asked.opening && !(right_begin && right_end)) {
    return protocol(asked, head, "the server answered with " + text(range) + " of the object");
  }
  if (auto same = asked.object->check_version(head, answer->total); !same) {
    Error error = std::move(same).error();
    error.range = asked.range;
    error.http_status = head.status;
    error.request_id = head.request_id;
    return {Outcome::kFail, std::move(error)};
  }
  if (!right_begin || !right_end) {
    auto verdict = protocol(asked, head, "the server answered with another range: " + text(range));
    verdict.error.expected = asked.range.size();
    verdict.error.got = range.size();
    return verdict;
  }
  if (head.content_length && *head.content_length != range.size()) {
    auto verdict = protocol(asked, head, "Content-Length and Content-Range of the answer contradict each other");
    verdict.error.expected = range.size();
    verdict.error.got = head.content_length;
    return verdict;
  }
  return {.outcome = Outcome::kBody, .body = range};
}

Verdict judge_whole(const HttpHead& head, const HttpAsked& asked) {
  const auto length = head.content_length;
  if (!length || asked.range.begin != 0 || *length > asked.range.size()) {
    return protocol(asked, head, "the server ignored the range and sent the whole object; it has to serve byte ranges");
  }
  if (auto same = asked.object->check_version(head, length); !same) {
    Error error = std::move(same).error();
    error.range = asked.range;
    error.http_status = head.status;
    return {Outcome::kFail, std::move(error)};
  }
  if (!asked.opening && *length != asked.range.size()) {
    return protocol(asked, head, "the server ignored the range and sent the whole object; it has to serve byte ranges");
  }
  return {.outcome = Outcome::kBody, .body = {0, *length}};
}

bool is_one_of(std::string_view code, std::initializer_list<std::string_view> codes) {
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

bool asks_to_slow_down(const HttpHead& head, std::string_view code) {
  if (head.status == 429) return true;
  if (head.status != 503) return false;
  return !head.retry_after.empty() ||
         is_one_of(code, {"SlowDown", "ServerBusy", "TooManyRequests", "RequestLimitExceeded", "Throttling",
                          "ThrottlingException", "rateLimitExceeded"});
}

// What a person reads who meets this status. `code` is the service's own.
Verdict judge_status(const HttpHead& head, const HttpAsked& asked, const std::string& code) {
  const auto verdict = [&](Outcome outcome, ErrorCode error, std::string message) {
    if (!code.empty()) message += " (" + code + ")";
    Verdict result{outcome, error_of(asked, head, error, std::move(message))};
    result.error.service_code = code;
    return result;
  };
  switch (head.status) {
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      if (!head.location.empty()) return {.outcome = Outcome::kRedirect};
      return verdict(Outcome::kFail, ErrorCode::kConfig,
                     head.bucket_region.empty()
                         ? "the server redirects to nowhere; wrong region? Check the region and the endpoint"
                         : "wrong region? The bucket is in " + head.bucket_region);
    case 400:
      if (is_one_of(code, {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "RequestExpired"})) {
        return verdict(Outcome::kRenew, ErrorCode::kAuth, "the credentials were refused: expired or invalid");
      }
      if (is_one_of(code, {"AuthorizationHeaderMalformed", "AuthorizationQueryParametersError"})) {
        return verdict(Outcome::kFail, ErrorCode::kAuth,
                       "the signature was refused: check the region and the credentials" +
                           (head.bucket_region.empty() ? "" : "; the bucket is in " + head.bucket_region));
      }
      return verdict(Outcome::kFail, ErrorCode::kServer, "the server calls this a bad request");
    case 401:
      return verdict(Outcome::kRenew, ErrorCode::kAuth, "the server wants credentials, or does not accept these");
    case 403:
      return verdict(Outcome::kRenew, ErrorCode::kAuth,
                     "access is denied: these credentials (or none) may not read this object");
    case 404:
    case 410:
      return verdict(Outcome::kFail, ErrorCode::kNotFound, "there is no such object");
    case 412:
      return verdict(Outcome::kFail, ErrorCode::kSourceChanged,
                     "the object was replaced while it was being read; load it again");
    case 416:
      return verdict(Outcome::kFail, ErrorCode::kSourceChanged, "the object is shorter than it was; load it again");
    case 429:
    case 503:
      if (asks_to_slow_down(head, code)) {
        return verdict(Outcome::kThrottle, ErrorCode::kThrottled, "the server asks to slow down");
      }
      [[fallthrough]];
    case 408:
    case 500:
    case 502:
    case 504:
      return verdict(head.status == 503 ? Outcome::kThrottle : Outcome::kRetry, ErrorCode::kServer,
                     "the server failed with status " + std::to_string(head.status));
    default:
      break;
  }
  if (head.status < 300 || (head.status >= 300 && head.status < 400)) {
    return protocol(asked, head, "the server answered a range request with status " + std::to_string(head.status));
  }
  return verdict(Outcome::kFail, ErrorCode::kServer,
                 "the server refused the request with status " + std::to_string(head.status));
}

std::string ca_bundle(const HttpOptions& options) {
  if (options.ca_bundle.empty()) return "the system's CA bundle";
  return "the CA bundle " + options.ca_bundle +
         (options.ca_origin.empty() ? std::string() : " (from " + options.ca_origin + ")");
}

// What a certificate was compared with, and what to do where that is too little.
std::string authorities(const HttpOptions& options) {
  return "it was checked against " + ca_bundle(options) +
         (options.ca_bundle.empty() ? "; name a private CA by storage_options={'verify': PATH}"
                                    : ", which must hold the CA that signed it");
}

}  // namespace

Verdict judge_head(const HttpHead& head, const HttpAsked& asked) {
  if (head.status == 206 || head.status == 200) {
    if (!head.content_encoding.empty() && head.content_encoding != "identity") {
      return protocol(asked, head, "the server sent the object in an encoding (Content-Encoding) nobody asked for");
    }
    return head.status == 206 ? judge_partial(head, asked) : judge_whole(head, asked);
  }
  if (head.status == 416 && asked.opening) {
    const auto answer = parse_content_range(head.content_range);
    if (answer && answer->total == 0) {  // no range of an empty object can be satisfied
      if (auto same = asked.object->check_version(head, 0); !same) return {Outcome::kFail, std::move(same).error()};
      return {.outcome = Outcome::kBody, .body = {0, 0}};
    }
  }
  return judge_status(head, asked, head.service_code);
}

Verdict judge_error(const HttpHead& head, const HttpAsked& asked, std::string_view body) {
  return judge_status(head, asked, head.service_code.empty() ? service_code_of(body) : head.service_code);
}

Verdict judge_proxy(int status, const HttpAsked& asked) {
  HttpHead head;
  head.status = status;
  const std::string refusal = "the proxy makes no tunnel to " + origin_of(asked.object->target().url) + " (status " +
                              std::to_string(status) + ")";
  if (status == 407) {
    return {Outcome::kFail,
            error_of(asked, head, ErrorCode::kAuth,
                     refusal + ": it wants credentials, as http://user:password@host:port in the proxy's variable")};
  }
  const bool passes = status == 408 || status == 429 || status >= 500;
  return {passes ? Outcome::kConnect : Outcome::kFail,
          error_of(asked, head, ErrorCode::kServer,
                   refusal + (passes ? "" : ": let it allow CONNECT to that port, or name the host in no_proxy"))};
}

Verdict judge_transport(CURLcode code, const std::string& detail, const HttpHead& head, const HttpAsked& asked,
                        ByteRange body, std::uint64_t got) {
  const std::string host = origin_of(asked.object->target().url);
  const auto verdict = [&](Outcome outcome, ErrorCode error, std::string message) {
    if (!detail.empty()) message += ": " + detail.substr(0, detail.find('?'));
    return Verdict{outcome, error_of(asked, head, error, std::move(message))};
  };
  switch (code) {
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return verdict(Outcome::kConnect, ErrorCode::kServer, "the name of " + host + " cannot be resolved");
    case CURLE_COULDNT_CONNECT:
      return verdict(Outcome::kConnect, ErrorCode::kServer, "no connection to " + host);
    case CURLE_OPERATION_TIMEDOUT:
      return verdict(Outcome::kConnect, ErrorCode::kTimeout, "no connection to " + host + " in time");
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_CRL_BADFILE:
    case CURLE_SSL_ENGINE_NOTFOUND:
      return verdict(Outcome::kFail, ErrorCode::kConfig, ca_bundle(asked.object->options()) + " cannot be used");
    case CURLE_PEER_FAILED_VERIFICATION:
      return verdict(Outcome::kFail, ErrorCode::kProtocol,
                     "the certificate of " + host + " is not trusted; " + authorities(asked.object->options()));
    case CURLE_SSL_CONNECT_ERROR:
      if (detail.find("SYSCALL") != std::string::npos || detail.find("reset") != std::string::npos) {
        return verdict(Outcome::kConnect, ErrorCode::kServer, host + " ended the connection during the TLS handshake");
      }
      [[fallthrough]];
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CIPHER:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
    case CURLE_SSL_INVALIDCERTSTATUS:
    case CURLE_USE_SSL_FAILED:
      return verdict(Outcome::kFail, ErrorCode::kProtocol, "TLS with " + host + " failed");
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL:
    case CURLE_HTTP2:
    case CURLE_BAD_CONTENT_ENCODING:
      return verdict(Outcome::kFail, ErrorCode::kProtocol, host + " does not answer in HTTP/1.1");
    case CURLE_OUT_OF_MEMORY:
      // What libcurl says of a header line beyond its own limit, too.
      if (head.status != 0 && got == 0) {
        return verdict(Outcome::kFail, ErrorCode::kProtocol, "a response header is too long, or memory is short");
      }
      [[fallthrough]];
    case CURLE_FAILED_INIT: {
      auto result = verdict(Outcome::kFail, ErrorCode::kStorage, "out of memory");
      result.error.system_errno = ENOMEM;
      return result;
    }
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_GOT_NOTHING:
    case CURLE_OK:
      break;
    default:
      return verdict(Outcome::kFail, ErrorCode::kProtocol,
                     "the request failed (libcurl: " + std::string(curl_easy_strerror(code)) + ")");
  }
  if (head.status == 0) {
    return verdict(Outcome::kRetry, ErrorCode::kServer, host + " closed the connection without an answer");
  }
  auto result = verdict(Outcome::kRetry, ErrorCode::kTruncated, "the connection ended before the range did");
  result.error.expected = body.size();
  result.error.got = got;
  return result;
}

std::string misled(const std::string& url, AddressScope scope) {
  return "the server redirects to " +
         std::string(scope == AddressScope::kLoopback ? "this machine" : "a link-local or metadata address") + " (" +
         origin_of(url) + "); from elsewhere this is not followed";
}

}  // namespace weightstream
