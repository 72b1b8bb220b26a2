// Answers other than bytes: servers that are busy or broken, redirects, and credentials that end.
#include <algorithm>
#include <chrono>
#include <set>
#include <string>
#include <thread>

#include "http_harness.h"

namespace weightstream::testing {
namespace {

using std::chrono::milliseconds;
using End = HttpReply::End;

using HttpRetry = HttpReaderTest;

TEST_F(HttpRetry, StatusesThatPass) {
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    SCOPED_TRACE(status);
    server_->forget();
    server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
      if (request.number % 2 == 0) return reply(status, {}, "busy");
      return std::nullopt;
    });
    const auto source = listed();
    ScriptedFeed feed(*source, kSize, kSize);
    run(feed);
    EXPECT_TRUE(feed.errors().empty());
    EXPECT_EQ(feed.retries(), 1U);
  }
}

TEST_F(HttpRetry, ServersThatStayBusy) {
  server_->script(
      [](const HttpRequest&) { return reply(503, {"x-amz-request-id: r1"}, "<Error><Code>SlowDown</Code></Error>"); });
  auto policy = quick();
  policy.max_attempts = 3;
  auto error = expect_error(*listed(policy), ErrorCode::kThrottled, "asks to slow down (SlowDown)");
  EXPECT_EQ(error.attempts, 3U);
  EXPECT_EQ(error.http_status, 503);
  EXPECT_EQ(error.service_code, "SlowDown");
  EXPECT_EQ(error.request_id, "r1");
  EXPECT_EQ(server_->requests().size(), 3U);
  server_->script([](const HttpRequest&) { return reply(500); });
  error = expect_error(*listed(policy), ErrorCode::kServer, "status 500");
  EXPECT_EQ(error.attempts, 3U);
}

TEST_F(HttpRetry, StatusesThatStay) {
  struct Row {
    int status;
    ErrorCode code;
    std::string_view words;
  };
  for (const auto& row :
       {Row{400, ErrorCode::kServer, "bad request"}, Row{401, ErrorCode::kAuth, "credentials"},
        Row{403, ErrorCode::kAuth, "denied"}, Row{404, ErrorCode::kNotFound, "no such object"},
        Row{410, ErrorCode::kNotFound, "no such object"}, Row{412, ErrorCode::kSourceChanged, "replaced"},
        Row{416, ErrorCode::kSourceChanged, "shorter"}, Row{501, ErrorCode::kServer, "501"}}) {
    SCOPED_TRACE(row.status);
    server_->forget();
    server_->script([&](const HttpRequest&) { return reply(row.status, {}, "<Code>Why</Code>"); });
    const auto error = expect_error(*listed(), row.code, row.words);
    EXPECT_EQ(error.attempts, 1U);
    EXPECT_EQ(error.http_status, row.status);
    EXPECT_EQ(error.service_code, "Why");
    EXPECT_EQ(server_->requests().size(), 1U);
  }
}

TEST_F(HttpRetry, OfAnErrorsBodyOnlyTheBeginningIsRead) {
  server_->script([](const HttpRequest&) {
    return reply(404, {}, "<Error><Code>NoSuchKey</Code>" + std::string(8 << 20, 'x') + "</Error>");
  });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kNotFound, "(NoSuchKey)").http_status, 404);
}

TEST_F(HttpRetry, AnErrorWhoseBodyBreaksOffIsStillThatError) {
  server_->script([](const HttpRequest&) { return reply(404, {}, std::string(1000, 'x')).cut(10, End::kFin); });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kNotFound, "no such object").attempts, 1U);
}

TEST_F(HttpRetry, AnErrorWhoseBodyStallsIsStillThatError) {
  auto policy = quick();
  policy.stall_seconds = 0.1;
  policy.first_byte_seconds = policy.connect_timeout = 0.1;
  for (const std::size_t came : {0, 10}) {
    SCOPED_TRACE(came);
    server_->forget();
    server_->script([&](const HttpRequest&) { return reply(404, {}, std::string(1000, 'x')).cut(came, End::kHang); });
    EXPECT_EQ(expect_error(*listed(policy), ErrorCode::kNotFound, "no such object").attempts, 1U);
    EXPECT_EQ(server_->requests().size(), 1U);
  }
}

TEST_F(HttpRetry, AServerIsLeftAloneAsLongAsItAsks) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return reply(429, {"Retry-After: 1"});
    return std::nullopt;
  });
  auto policy = quick();
  policy.backoff_cap = 10;
  const auto before = std::chrono::steady_clock::now();
  expect_right(*listed(policy), kRead, connections(1));
  EXPECT_GE(std::chrono::steady_clock::now() - before, milliseconds(990));
}

TEST_F(HttpRetry, AskingForAnHourIsAskingForTheCap) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return reply(503, {"Retry-After: 3600"});
    return std::nullopt;
  });
  expect_right(*listed(), kRead);
}

TEST_F(HttpRetry, FewerConnectionsAfterThrottling) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return reply(429);
    return std::nullopt;
  });
  HttpHost& host = listed()->host();
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, 16 << 10);
  {
    const auto reader = make_http_reader(connections(64), connections_, &host, log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(feed.size()));
    reader->stop();
  }
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(host.remembered(), 32U);
}

// Two servers: the one that is asked, with a header that counts as a credential, and another origin.
class HttpRedirect : public HttpReaderTest {
 protected:
  HttpRedirect() {
    other_->put("/there", pattern_content(kSize, kSeed));
    access_.url = server_->url("/o");
    access_.headers = {"Authorization: SECRET"};
  }
  std::shared_ptr<HttpObject> guarded(HttpPolicy policy = quick()) { return object(access_, policy, kSize, "\"1\""); }
  void redirect_to(const std::string& location, int status = 307) {
    server_->script([=](const HttpRequest&) { return reply(status, {"Location: " + location}); });
  }

  std::unique_ptr<HttpTestServer> other_ = HttpTestServer::make();
  HttpAccess access_;
};

TEST_F(HttpRedirect, AnotherOriginIsFollowedWithoutCredentialsAndRemembered) {
  for (const int status : {301, 302, 303, 307, 308}) {
    SCOPED_TRACE(status);
    server_->forget();
    other_->forget();
    redirect_to(other_->url("/there?signature=1"), status);
    expect_right(*guarded(), kRead, connections(1));
    ASSERT_EQ(server_->requests().size(), 1U) << "where it led is remembered";
    EXPECT_EQ(server_->requests()[0].header("authorization"), "SECRET");
    const auto there = other_->requests();
    EXPECT_EQ(there.size(), kSize / kRead + 1);
    for (const auto& request : there) {
      EXPECT_EQ(request.path, "/there?signature=1");
      EXPECT_EQ(request.header("authorization"), "");
      EXPECT_EQ(request.header("if-match"), "\"1\"");
    }
  }
}

TEST_F(HttpRedirect, TheSameOriginKeepsTheCredentials) {
  server_->put("/there", pattern_content(kSize, kSeed));
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.path == "/o") return reply(302, {"Location: there"});
    return std::nullopt;
  });
  expect_right(*guarded(), kRead, connections(1));
  for (const auto& request : server_->requests()) EXPECT_EQ(request.header("authorization"), "SECRET");
}

TEST_F(HttpRedirect, CirclesEnd) {
  redirect_to("/o");
  auto policy = quick();
  policy.max_redirects = 3;
  const auto error = expect_error(*guarded(policy), ErrorCode::kProtocol, "too many redirects");
  EXPECT_EQ(error.http_status, 307);
  EXPECT_EQ(server_->requests().size(), 4U);
}

TEST_F(HttpRedirect, AsManyAsAreAllowed) {
  server_->put("/there", pattern_content(kSize, kSeed));
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number < 5) return reply(307, {"Location: /there?" + std::to_string(request.number)});
    return std::nullopt;
  });
  expect_right(*guarded());
}

TEST_F(HttpRedirect, OtherSchemesAreNotFollowed) {
  for (const char* location : {"ftp://host/x", "file:///etc/passwd", "javascript:alert(1)", "http://[::1/"}) {
    SCOPED_TRACE(location);
    redirect_to(location);
    const auto error = expect_error(*guarded(), ErrorCode::kProtocol, "not http or https");
    EXPECT_EQ(error.attempts, 1U);
  }
}

// Servers of these tests are on loopback: what they may lead to, servers elsewhere may not.
TEST_F(HttpRedirect, LinkLocalAddressesAreNotFollowed) {
  for (const char* location : {"http://169.254.169.254/latest/meta-data", "http://2852039166/", "http://[fe80::1]:80/",
                               "//169.254.170.2/v2/credentials", "http://[::ffff:169.254.169.254]/"}) {
    SCOPED_TRACE(location);
    redirect_to(location);
    const auto error = expect_error(*guarded(), ErrorCode::kProtocol, "redirects to a link-local or metadata address");
    EXPECT_EQ(error.http_status, 307);
    EXPECT_EQ(error.attempts, 1U);
  }
}

// The address that the connection has counts, not what the name looks like: this one is of a Hub that answers
// elsewhere, and leads here.
TEST_F(HttpRedirect, ThisMachineIsNotAskedForOthers) {
  access_.redirected_by = "http://hub.example/";
  const auto error = expect_error(*guarded(), ErrorCode::kProtocol, "redirects to this machine (http://127.0.0.1:");
  EXPECT_EQ(error.attempts, 1U);
  EXPECT_TRUE(server_->requests().empty());

  access_.redirected_by = "http://localhost:9/";
  expect_right(*guarded());
  server_->forget();
  access_.redirected_by = "http://hub.example/";
  expect_error(*guarded(), ErrorCode::kProtocol, "redirects to this machine");
  EXPECT_TRUE(server_->requests().empty()) << "nor by a connection that rests";
}

TEST_F(HttpRedirect, NowhereIsAQuestionOfTheRegion) {
  server_->script([](const HttpRequest&) { return reply(301, {"x-amz-bucket-region: eu-west-1"}); });
  const auto error = expect_error(*guarded(), ErrorCode::kConfig, "wrong region? The bucket is in eu-west-1");
  EXPECT_EQ(error.http_status, 301);
}

// What a redirect leads to may end (it is signed for minutes): then the way is asked for again.
TEST_F(HttpRedirect, WhereItLedMayEnd) {
  for (const int status : {401, 403, 404}) {
    SCOPED_TRACE(status);
    server_->forget();
    other_->forget();
    server_->script([&](const HttpRequest& request) {
      return reply(307, {"Location: " + other_->url("/there?" + std::to_string(request.number))});
    });
    other_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
      if (request.number >= 2 && request.path == "/there?0") return reply(status);
      return std::nullopt;
    });
    expect_right(*guarded(), kRead, connections(1));
    EXPECT_EQ(server_->requests().size(), 2U);
  }
}

TEST_F(HttpRedirect, WhereItLeadsIsNotThere) {
  redirect_to(other_->url("/nothing"));
  expect_error(*guarded(), ErrorCode::kNotFound, "no such object");
  EXPECT_LE(other_->requests().size(), 2U);
  EXPECT_EQ(other_->requests()[0].header("authorization"), "");
}

// Somebody who answers those who need new access, as the bindings' thread does.
class HttpRenewing : public HttpReaderTest {
 protected:
  HttpRenewing() {
    renewals_ = std::make_shared<Renewals>();
    server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
      if (request.header("authorization") == "new") return std::nullopt;
      return reply(403, {}, "<Code>ExpiredToken</Code>");
    });
  }
  ~HttpRenewing() override {
    stop_ = true;
    if (renewer_.joinable()) renewer_.join();
  }
  [[nodiscard]] HttpAccess access(const std::string& token, std::optional<double> expires_in = std::nullopt) const {
    HttpAccess made{.url = server_->url("/o"), .headers = {"Authorization: " + token}, .expires_at = {}};
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    if (expires_in) made.expires_at = now + *expires_in;
    return made;
  }
  void renew_by(std::function<void(const HttpObject&)> renew) {
    renewer_ = std::thread([this, renew] {
      while (!stop_) {
        const auto asking = renewals_->next(milliseconds(5));
        if (!asking) continue;
        ++renewed_;
        renew(*asking);
      }
    });
  }

  std::atomic<bool> stop_ = false;
  std::atomic<int> renewed_ = 0;
  std::thread renewer_;
};

TEST_F(HttpRenewing, ManyReadsAreRefusedAndRenewOnce) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("new")); });
  expect_right(*object(access("old"), quick(), kSize, "\"1\""), 64 << 10, connections(8));
  EXPECT_EQ(renewed_, 1);
}

TEST_F(HttpRenewing, AnObjectMayBeOpenedWithOldCredentials) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("new")); });
  const auto source = object(access("old"), quick(), std::nullopt, "");
  ScriptedFeed feed(*source, 4 << 20, 4 << 20);
  run(feed);
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(source->size(), kSize);
}

TEST_F(HttpRenewing, AFailureIsTheReadsError) {
  renew_by([](const HttpObject& asking) { asking.renewal_failed("the token file is gone"); });
  const auto error = expect_error(*object(access("old"), quick(), kSize, "\"1\""), ErrorCode::kAuth,
                                  "new ones could not be had: the token file is gone");
  EXPECT_EQ(error.http_status, 403);
  EXPECT_EQ(error.service_code, "ExpiredToken");
}

TEST_F(HttpRenewing, RefusedAgainWithNewAccess) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("old")); });
  const auto error =
      expect_error(*object(access("old"), quick(), kSize, "\"1\""), ErrorCode::kAuth, "access is denied");
  EXPECT_EQ(error.attempts, 2U);
  EXPECT_EQ(renewed_, 1);
}

TEST_F(HttpRenewing, NothingIsSentWithAccessThatHasEnded) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("new", 1000)); });
  expect_right(*object(access("old", -10), quick(), kSize, "\"1\""), kRead);
  EXPECT_EQ(renewed_, 1);
  for (const auto& request : server_->requests()) EXPECT_EQ(request.header("authorization"), "new");
}

// A clock that is wrong must not keep anybody from trying.
TEST_F(HttpRenewing, NewAccessThatSeemsToHaveEndedIsTried) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("new", -10)); });
  expect_right(*object(access("old", -10), quick(), kSize, "\"1\""), kSize);
  EXPECT_EQ(renewed_, 1);
}

TEST_F(HttpRenewing, AccessThatStaysShortIsNotAskedForAgainAndAgain) {
  renew_by([&](const HttpObject& asking) { asking.renew(access("new", 30)); });
  expect_right(*object(access("old", 30), quick(), kSize, "\"1\""), 16 << 10);
  EXPECT_EQ(renewed_, 1);
}

TEST_F(HttpRenewing, AccessThatEndsSoonIsUsedWhileNewIsAskedFor) {
  server_->script(nullptr);
  const auto source = object(access("old", 30), quick(), kSize, "\"1\"");
  expect_right(*source, kRead);
  EXPECT_NE(renewals_->next(milliseconds(0)), nullptr);
  EXPECT_EQ(renewals_->next(milliseconds(0)), nullptr) << "once for all reads";
}

TEST_F(HttpRenewing, EndedAccessThatCannotBeRenewed) {
  renew_by([](const HttpObject& asking) { asking.renewal_failed("no"); });
  const auto error = expect_error(*object(access("old", -10), quick(), kSize, "\"1\""), ErrorCode::kAuth,
                                  "the credentials have ended; new ones could not be had: no");
  EXPECT_EQ(error.attempts, 0U);
  EXPECT_TRUE(server_->requests().empty());
}

}  // namespace
}  // namespace weightstream::testing
