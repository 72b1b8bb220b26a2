// What each response and each failure of a transport means: one row each.
#include "storage/http_verdict.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <string>

namespace weightstream {
namespace {

constexpr std::uint64_t kSize = 1000;

HttpHead head_of(int status, std::initializer_list<std::string> lines = {}) {
  HttpHead head;
  EXPECT_TRUE(head.add("HTTP/1.1 " + std::to_string(status) + " Some Reason"));
  for (const auto& line : lines) EXPECT_TRUE(head.add(line));
  return head;
}

class HttpVerdict : public ::testing::Test {
 protected:
  // Of an object of kSize bytes, or of one that is being opened.
  HttpAsked asked(ByteRange range, bool opening = false) {
    auto made = HttpObject::make("name", {.url = "https://host/a?secret", .headers = {}, .expires_at = {}},
                                 opening ? std::nullopt : std::optional(kSize), "", {}, nullptr, hosts_);
    object_ = *made;
    return {object_.get(), range, opening};
  }
  static void expect_says(const Verdict& verdict, ErrorCode code, std::string_view words) {
    EXPECT_EQ(verdict.error.code, code) << verdict.error.message;
    EXPECT_NE(verdict.error.message.find(words), std::string::npos) << verdict.error.message;
    EXPECT_EQ(verdict.error.source, "name");
    EXPECT_EQ(verdict.error.message.find("secret"), std::string::npos);
  }

  HttpHosts hosts_;
  std::shared_ptr<HttpObject> object_;
};

TEST_F(HttpVerdict, TheRangeThatWasAskedFor) {
  const auto verdict = judge_head(
      head_of(206, {"Content-Range: bytes 10-19/1000", "Content-Length: 10", "ETag: \"a\""}), asked({10, 20}));
  EXPECT_EQ(verdict.outcome, Outcome::kBody);
  EXPECT_EQ(verdict.body, (ByteRange{10, 20}));
  EXPECT_EQ(object_->if_match(), "\"a\"") << "the version is pinned";
}

TEST_F(HttpVerdict, ARangeOfUnknownTotalOrLengthIsEnough) {
  EXPECT_EQ(judge_head(head_of(206, {"Content-Range: bytes 10-19/*"}), asked({10, 20})).outcome, Outcome::kBody);
}

TEST_F(HttpVerdict, OpeningEndsWhereTheObjectDoes) {
  auto verdict = judge_head(head_of(206, {"Content-Range: bytes 0-499/500"}), asked({0, 4096}, true));
  EXPECT_EQ(verdict.outcome, Outcome::kBody);
  EXPECT_EQ(verdict.body, (ByteRange{0, 500}));
  EXPECT_EQ(object_->size(), 500U);
  verdict = judge_head(head_of(206, {"Content-Range: bytes 0-4095/5000"}), asked({0, 4096}, true));
  EXPECT_EQ(verdict.body, (ByteRange{0, 4096}));
  EXPECT_EQ(object_->size(), 5000U);
}

TEST_F(HttpVerdict, AnEmptyObjectHasNoRanges) {
  const auto empty = head_of(416, {"Content-Range: bytes */0"});
  auto verdict = judge_head(empty, asked({0, 4096}, true));
  EXPECT_EQ(verdict.outcome, Outcome::kBody);
  EXPECT_TRUE(verdict.body.empty());
  EXPECT_TRUE(object_->size_known());
  EXPECT_EQ(object_->size(), 0U);
  EXPECT_EQ(judge_head(empty, asked({0, 10})).error.code, ErrorCode::kSourceChanged);
  EXPECT_EQ(judge_head(head_of(416), asked({0, 4096}, true)).outcome, Outcome::kFail);
  EXPECT_EQ(judge_head(head_of(416, {"Content-Range: bytes */9"}), asked({0, 4096}, true)).outcome, Outcome::kFail);
}

TEST_F(HttpVerdict, RangesThatAreWrong) {
  struct Row {
    std::initializer_list<std::string> lines;
    bool opening;
    ErrorCode code;
    std::string_view words;
  };
  const Row rows[] = {
      {{}, false, ErrorCode::kProtocol, "without Content-Range"},
      {{"Content-Range: bytes 10-19"}, false, ErrorCode::kProtocol, "cannot be read"},
      {{"Content-Range: bytes */1000"}, false, ErrorCode::kProtocol, "cannot be read"},
      {{"Content-Range: bytes 11-19/1000"}, false, ErrorCode::kProtocol, "another range: bytes 11 to 20"},
      {{"Content-Range: bytes 10-18/1000"}, false, ErrorCode::kProtocol, "another range"},
      {{"Content-Range: bytes 10-20/1000"}, false, ErrorCode::kProtocol, "another range"},
      {{"Content-Range: bytes 0-999/1000"}, false, ErrorCode::kProtocol, "another range"},
      {{"Content-Range: bytes 10-19/999"}, false, ErrorCode::kSourceChanged, "size"},
      {{"Content-Range: bytes 10-14/15"}, false, ErrorCode::kSourceChanged, "size"},
      {{"Content-Range: bytes 10-19/1000", "Content-Length: 11"}, false, ErrorCode::kProtocol, "contradict"},
      {{"Content-Range: bytes 10-19/1000", "Content-Encoding: gzip"}, false, ErrorCode::kProtocol, "encoding"},
      {{"Content-Range: bytes 10-19/*"}, true, ErrorCode::kProtocol, "how large"},
      {{"Content-Range: bytes 0-19/1000"}, true, ErrorCode::kProtocol, "bytes 0 to 20"},
      {{"Content-Range: bytes 10-18/1000"}, true, ErrorCode::kProtocol, "bytes 10 to 19"},
      {{"Content-Range: bytes 10-18/20"}, true, ErrorCode::kProtocol, "bytes 10 to 19"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.lines.size() > 0 ? *row.lines.begin() : "no lines");
    const auto verdict = judge_head(head_of(206, row.lines), asked({10, 20}, row.opening));
    EXPECT_EQ(verdict.outcome, Outcome::kFail);
    expect_says(verdict, row.code, row.words);
    EXPECT_EQ(verdict.error.http_status, 206);
    EXPECT_EQ(verdict.error.range, (ByteRange{10, 20}));
    if (row.opening) {
      EXPECT_FALSE(object_->size_known()) << "a wrong answer pins nothing";
    }
  }
}

TEST_F(HttpVerdict, AnotherVersionOfTheObject) {
  const auto ask = asked({10, 20});
  ASSERT_EQ(judge_head(head_of(206, {"Content-Range: bytes 10-19/1000", "ETag: \"a\""}), ask).outcome, Outcome::kBody);
  const auto verdict =
      judge_head(head_of(206, {"Content-Range: bytes 10-19/1000", "ETag: \"b\"", "x-amz-request-id: r1"}), ask);
  EXPECT_EQ(verdict.outcome, Outcome::kFail);
  expect_says(verdict, ErrorCode::kSourceChanged, "ETag");
  EXPECT_EQ(verdict.error.request_id, "r1");
  EXPECT_EQ(verdict.error.range, (ByteRange{10, 20}));
}

TEST_F(HttpVerdict, TheWholeObjectWhereItWasAskedFor) {
  auto verdict = judge_head(head_of(200, {"Content-Length: 1000"}), asked({0, kSize}));
  EXPECT_EQ(verdict.outcome, Outcome::kBody);
  EXPECT_EQ(verdict.body, (ByteRange{0, kSize}));
  verdict = judge_head(head_of(200, {"Content-Length: 77"}), asked({0, 4096}, true));
  EXPECT_EQ(verdict.outcome, Outcome::kBody);
  EXPECT_EQ(verdict.body, (ByteRange{0, 77}));
  EXPECT_EQ(object_->size(), 77U);
}

TEST_F(HttpVerdict, TheWholeObjectWhereARangeWasAskedFor) {
  const auto refused = [&](std::initializer_list<std::string> lines, const HttpAsked& ask) {
    const auto verdict = judge_head(head_of(200, lines), ask);
    EXPECT_EQ(verdict.outcome, Outcome::kFail);
    return verdict;
  };
  expect_says(refused({"Content-Length: 1000"}, asked({0, 500})), ErrorCode::kProtocol, "ignored the range");
  expect_says(refused({"Content-Length: 1000"}, asked({500, 1000})), ErrorCode::kProtocol, "ignored the range");
  expect_says(refused({}, asked({0, kSize})), ErrorCode::kProtocol, "ignored the range");
  expect_says(refused({"Content-Length: 5000"}, asked({0, 4096}, true)), ErrorCode::kProtocol, "ignored the range");
  expect_says(refused({"Content-Length: 500"}, asked({0, kSize})), ErrorCode::kSourceChanged, "size");
  expect_says(refused({"Content-Length: 1000", "Content-Encoding: br"}, asked({0, kSize})), ErrorCode::kProtocol,
              "encoding");
  EXPECT_EQ(judge_head(head_of(200, {"Content-Length: 1000", "Content-Encoding: identity"}), asked({0, kSize})).outcome,
            Outcome::kBody);
}

TEST_F(HttpVerdict, Statuses) {
  struct Row {
    int status;
    Outcome outcome;
    ErrorCode code;
    std::string_view words;
  };
  const Row rows[] = {
      {0, Outcome::kFail, ErrorCode::kProtocol, "status 0"},
      {201, Outcome::kFail, ErrorCode::kProtocol, "status 201"},
      {204, Outcome::kFail, ErrorCode::kProtocol, "status 204"},
      {300, Outcome::kFail, ErrorCode::kProtocol, "status 300"},
      {301, Outcome::kFail, ErrorCode::kConfig, "wrong region?"},
      {302, Outcome::kFail, ErrorCode::kConfig, "to nowhere"},
      {304, Outcome::kFail, ErrorCode::kProtocol, "status 304"},
      {307, Outcome::kFail, ErrorCode::kConfig, "to nowhere"},
      {400, Outcome::kFail, ErrorCode::kServer, "bad request"},
      {401, Outcome::kRenew, ErrorCode::kAuth, "wants credentials"},
      {403, Outcome::kRenew, ErrorCode::kAuth, "access is denied"},
      {404, Outcome::kFail, ErrorCode::kNotFound, "no such object"},
      {405, Outcome::kFail, ErrorCode::kServer, "status 405"},
      {407, Outcome::kFail, ErrorCode::kServer, "status 407"},
      {408, Outcome::kRetry, ErrorCode::kServer, "status 408"},
      {409, Outcome::kFail, ErrorCode::kServer, "status 409"},
      {410, Outcome::kFail, ErrorCode::kNotFound, "no such object"},
      {412, Outcome::kFail, ErrorCode::kSourceChanged, "replaced"},
      {416, Outcome::kFail, ErrorCode::kSourceChanged, "shorter"},
      {418, Outcome::kFail, ErrorCode::kServer, "status 418"},
      {429, Outcome::kThrottle, ErrorCode::kThrottled, "slow down"},
      {500, Outcome::kRetry, ErrorCode::kServer, "status 500"},
      {501, Outcome::kFail, ErrorCode::kServer, "status 501"},
      {502, Outcome::kRetry, ErrorCode::kServer, "status 502"},
      {503, Outcome::kThrottle, ErrorCode::kServer, "status 503"},
      {504, Outcome::kRetry, ErrorCode::kServer, "status 504"},
      {505, Outcome::kFail, ErrorCode::kServer, "status 505"},
      {999, Outcome::kFail, ErrorCode::kServer, "status 999"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.status);
    auto head = head_of(row.status, {"x-amz-request-id: r1"});
    for (const auto& verdict : {judge_head(head, asked({10, 20})), judge_error(head, asked({10, 20}), "")}) {
      EXPECT_EQ(verdict.outcome, row.outcome);
      expect_says(verdict, row.code, row.words);
      EXPECT_EQ(verdict.error.http_status, row.status);
      EXPECT_EQ(verdict.error.request_id, "r1");
      EXPECT_EQ(verdict.error.range, (ByteRange{10, 20}));
    }
  }
}

TEST_F(HttpVerdict, Redirects) {
  for (const int status : {301, 302, 303, 307, 308}) {
    EXPECT_EQ(judge_head(head_of(status, {"Location: /b"}), asked({0, 10})).outcome, Outcome::kRedirect) << status;
  }
  EXPECT_EQ(judge_head(head_of(304, {"Location: /b"}), asked({0, 10})).outcome, Outcome::kFail);
  const auto elsewhere = judge_head(head_of(301, {"x-amz-bucket-region: eu-west-1"}), asked({0, 10}));
  expect_says(elsewhere, ErrorCode::kConfig, "wrong region? The bucket is in eu-west-1");
}

TEST_F(HttpVerdict, TheServicesOwnCode) {
  struct Row {
    int status;
    std::string_view code;
    Outcome outcome;
    ErrorCode error;
  };
  const Row rows[] = {
      {400, "ExpiredToken", Outcome::kRenew, ErrorCode::kAuth},
      {400, "InvalidToken", Outcome::kRenew, ErrorCode::kAuth},
      {400, "TokenRefreshRequired", Outcome::kRenew, ErrorCode::kAuth},
      {400, "RequestExpired", Outcome::kRenew, ErrorCode::kAuth},
      {400, "AuthorizationHeaderMalformed", Outcome::kFail, ErrorCode::kAuth},
      {400, "AuthorizationQueryParametersError", Outcome::kFail, ErrorCode::kAuth},
      {400, "InvalidArgument", Outcome::kFail, ErrorCode::kServer},
      {403, "RequestTimeTooSkewed", Outcome::kRenew, ErrorCode::kAuth},
      {404, "NoSuchKey", Outcome::kFail, ErrorCode::kNotFound},
      {429, "rateLimitExceeded", Outcome::kThrottle, ErrorCode::kThrottled},
      {503, "SlowDown", Outcome::kThrottle, ErrorCode::kThrottled},
      {503, "ServerBusy", Outcome::kThrottle, ErrorCode::kThrottled},
      {503, "Throttling", Outcome::kThrottle, ErrorCode::kThrottled},
      {503, "InternalError", Outcome::kThrottle, ErrorCode::kServer},
      {500, "InternalError", Outcome::kRetry, ErrorCode::kServer},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.code);
    const std::string code(row.code);
    const auto by_body = judge_error(head_of(row.status), asked({0, 10}), "<Error><Code>" + code + "</Code></Error>");
    const auto by_header = judge_error(head_of(row.status, {"x-ms-error-code: " + code}), asked({0, 10}),
                                       "<Error><Code>Another</Code></Error>");
    for (const auto& verdict : {by_body, by_header}) {
      EXPECT_EQ(verdict.outcome, row.outcome);
      expect_says(verdict, row.error, "(" + code + ")");
      EXPECT_EQ(verdict.error.service_code, code);
    }
  }
}

TEST_F(HttpVerdict, ABusyServerThatSaysWhenToComeBackThrottles) {
  const auto verdict = judge_head(head_of(503, {"Retry-After: 1"}), asked({0, 10}));
  EXPECT_EQ(verdict.outcome, Outcome::kThrottle);
  EXPECT_EQ(verdict.error.code, ErrorCode::kThrottled);
}

TEST_F(HttpVerdict, TheBucketsRegionHelpsWithASignature) {
  const auto verdict = judge_error(head_of(400, {"x-amz-bucket-region: eu-west-1"}), asked({0, 10}),
                                   "<Code>AuthorizationHeaderMalformed</Code>");
  expect_says(verdict, ErrorCode::kAuth, "the bucket is in eu-west-1");
}

TEST_F(HttpVerdict, TransportsThatFail) {
  struct Row {
    CURLcode curl;
    std::string detail;
    Outcome outcome;
    ErrorCode code;
    std::string_view words;
  };
  const Row rows[] = {
      {CURLE_COULDNT_RESOLVE_HOST, "Could not resolve host: host", Outcome::kConnect, ErrorCode::kServer,
       "the name of https://host:443 cannot be resolved: Could not"},
      {CURLE_COULDNT_RESOLVE_PROXY, "", Outcome::kConnect, ErrorCode::kServer, "cannot be resolved"},
      {CURLE_COULDNT_CONNECT, "Failed to connect", Outcome::kConnect, ErrorCode::kServer,
       "no connection to https://host:443"},
      {CURLE_OPERATION_TIMEDOUT, "", Outcome::kConnect, ErrorCode::kTimeout, "in time"},
      {CURLE_SSL_CACERT_BADFILE, "", Outcome::kFail, ErrorCode::kConfig, "CA bundle"},
      {CURLE_SSL_CRL_BADFILE, "", Outcome::kFail, ErrorCode::kConfig, "CA bundle"},
      {CURLE_PEER_FAILED_VERIFICATION, "self-signed certificate", Outcome::kFail, ErrorCode::kProtocol,
       "the certificate of https://host:443 is not trusted"},
      {CURLE_SSL_CONNECT_ERROR, "wrong version number", Outcome::kFail, ErrorCode::kProtocol, "TLS with"},
      {CURLE_SSL_CONNECT_ERROR, "OpenSSL SSL_connect: SSL_ERROR_SYSCALL in connection to host:443", Outcome::kConnect,
       ErrorCode::kServer, "during the TLS handshake"},
      {CURLE_SSL_CONNECT_ERROR, "Connection reset by peer", Outcome::kConnect, ErrorCode::kServer, "handshake"},
      {CURLE_SSL_CERTPROBLEM, "", Outcome::kFail, ErrorCode::kProtocol, "TLS with"},
      {CURLE_SSL_CIPHER, "", Outcome::kFail, ErrorCode::kProtocol, "TLS with"},
      {CURLE_SSL_ISSUER_ERROR, "", Outcome::kFail, ErrorCode::kProtocol, "TLS with"},
      {CURLE_WEIRD_SERVER_REPLY, "", Outcome::kFail, ErrorCode::kProtocol, "HTTP/1.1"},
      {CURLE_UNSUPPORTED_PROTOCOL, "Received HTTP/0.9", Outcome::kFail, ErrorCode::kProtocol, "HTTP/1.1"},
      {CURLE_BAD_CONTENT_ENCODING, "", Outcome::kFail, ErrorCode::kProtocol, "HTTP/1.1"},
      {CURLE_OUT_OF_MEMORY, "", Outcome::kFail, ErrorCode::kStorage, "out of memory"},
      {CURLE_FAILED_INIT, "", Outcome::kFail, ErrorCode::kStorage, "out of memory"},
      {CURLE_URL_MALFORMAT, "", Outcome::kFail, ErrorCode::kProtocol, "libcurl"},
      {CURLE_GOT_NOTHING, "Empty reply", Outcome::kRetry, ErrorCode::kServer, "without an answer"},
      {CURLE_RECV_ERROR, "Connection reset by peer", Outcome::kRetry, ErrorCode::kServer, "without an answer"},
      {CURLE_SEND_ERROR, "", Outcome::kRetry, ErrorCode::kServer, "without an answer"},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(curl_easy_strerror(row.curl));
    const auto verdict = judge_transport(row.curl, row.detail, HttpHead(), asked({10, 20}), {10, 20}, 0);
    EXPECT_EQ(verdict.outcome, row.outcome);
    expect_says(verdict, row.code, row.words);
    EXPECT_EQ(verdict.error.range, (ByteRange{10, 20}));
    EXPECT_EQ(verdict.error.system_errno, row.words == "out of memory" ? ENOMEM : 0);
  }
}

TEST_F(HttpVerdict, ABodyThatEndsEarly) {
  for (const auto code : {CURLE_PARTIAL_FILE, CURLE_RECV_ERROR, CURLE_SEND_ERROR, CURLE_GOT_NOTHING, CURLE_OK}) {
    SCOPED_TRACE(curl_easy_strerror(code));
    const auto verdict =
        judge_transport(code, "", head_of(206, {"x-amz-request-id: r1"}), asked({10, 20}), {10, 20}, 7);
    EXPECT_EQ(verdict.outcome, Outcome::kRetry);
    expect_says(verdict, ErrorCode::kTruncated, "ended before the range did");
    EXPECT_EQ(verdict.error.expected, 10U);
    EXPECT_EQ(verdict.error.got, 7U);
    EXPECT_EQ(verdict.error.http_status, 206);
    EXPECT_EQ(verdict.error.request_id, "r1");
  }
}

TEST_F(HttpVerdict, AQueryInLibcurlsWordsIsCut) {
  const auto verdict = judge_transport(CURLE_COULDNT_CONNECT, "Failed for https://host/a?secret=1", HttpHead(),
                                       asked({10, 20}), {10, 20}, 0);
  expect_says(verdict, ErrorCode::kServer, "https://host/a");
}

TEST_F(HttpVerdict, ACertificateThatIsNotTrustedSaysWhatItWasCheckedAgainst) {
  const auto judged = [&](CURLcode code, const std::string& bundle, const std::string& origin) {
    HttpOptions options;
    options.ca_bundle = bundle;
    options.ca_origin = origin;
    const auto object = *HttpObject::make("name", {.url = "https://host/a?secret", .headers = {}, .expires_at = {}},
                                          kSize, "", options, nullptr, hosts_);
    return judge_transport(code, "why", {}, {object.get(), {0, 10}, false}, {0, 10}, 0);
  };
  const auto untrusted = [&](const std::string& bundle, const std::string& origin) {
    return judged(CURLE_PEER_FAILED_VERIFICATION, bundle, origin);
  };
  expect_says(
      untrusted("", ""), ErrorCode::kProtocol,
      "the certificate of https://host:443 is not trusted; it was checked against the system's CA bundle; name a "
      "private CA by storage_options={'verify': PATH}: why");
  expect_says(
      untrusted("/ca.pem", "AWS_CA_BUNDLE"), ErrorCode::kProtocol,
      "it was checked against the CA bundle /ca.pem (from AWS_CA_BUNDLE), which must hold the CA that signed it: "
      "why");
  expect_says(untrusted("/ca.pem", ""), ErrorCode::kProtocol, "the CA bundle /ca.pem, which must");
  expect_says(judged(CURLE_SSL_CACERT_BADFILE, "/ca.pem", "verify"), ErrorCode::kConfig,
              "the CA bundle /ca.pem (from verify) cannot be used: why");
}

}  // namespace
}  // namespace weightstream
