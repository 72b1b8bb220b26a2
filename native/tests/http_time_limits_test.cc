// Time limits of reads over HTTP: connections, first bytes, stalls, deadlines, and the second connection for an
// outlier.
#include <atomic>
#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "http_harness.h"

namespace weightstream::testing {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;
using End = HttpReply::End;

using HttpTimeLimits = HttpReaderTest;

TEST_F(HttpTimeLimits, AServerThatDoesNotAcceptInTime) {
  const BlackHole hole;
  auto policy = quick();
  policy.connect_timeout = 0.1;
  policy.connect_attempts = 2;
  const auto source = object({.url = hole.url("/o"), .headers = {}, .expires_at = {}}, policy, kSize, "\"1\"");
  EXPECT_EQ(expect_error(*source, ErrorCode::kTimeout, "no connection to").attempts, 2U);
}

TEST_F(HttpTimeLimits, AStalledBodyIsResumedOnAnotherConnection) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return server_->right_answer(request).cut(10'000, End::kHang);
    return std::nullopt;
  });
  auto policy = quick();
  policy.stall_seconds = 0.1;
  expect_right(*listed(policy));
  const auto requests = server_->requests();
  ASSERT_GE(requests.size(), 2U);
  EXPECT_EQ(requests[1].range->begin, 10'000U);
  EXPECT_NE(requests[1].connection, requests[0].connection);
}

TEST_F(HttpTimeLimits, ABodyThatTricklesIsAStalledOne) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number > 0) return std::nullopt;
    auto reply = server_->right_answer(request);
    reply.chunk = 1;
    reply.pause = milliseconds(5);
    return reply;
  });
  auto policy = quick();
  policy.stall_seconds = 0.1;
  expect_right(*listed(policy));
  EXPECT_GE(server_->requests().size(), 2U);
}

TEST_F(HttpTimeLimits, ABodyThatAlwaysStallsIsGivenUp) {
  server_->script([&](const HttpRequest& request) { return server_->right_answer(request).cut(1000, End::kHang); });
  auto policy = quick();
  policy.stall_seconds = 0.05;
  policy.max_attempts = 2;
  EXPECT_EQ(expect_error(*listed(policy), ErrorCode::kTimeout, "the connection stalled").attempts, 2U);
}

TEST_F(HttpTimeLimits, AnAnswerThatDoesNotComeIsAskedForAgain) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return HttpReply{.status = 0, .end = End::kHang};
    return std::nullopt;
  });
  auto policy = quick();
  policy.connect_timeout = 0.4;
  policy.connect_attempts = policy.max_attempts = 1000;
  policy.first_byte_seconds = 0.1;
  expect_right(*listed(policy));
  EXPECT_GE(server_->requests().size(), 2U);
}

// Its kernel accepts, or does not; it answers to TLS with nothing; it ends connections and has time to be asked again.
TEST_F(HttpTimeLimits, AHostThatNeverAnswersIsGivenUpWhateverItIsSilentIn) {
  const BlackHole hole;
  server_->script([](const HttpRequest& request) {
    return HttpReply{.status = 0, .end = request.path == "/ends" ? End::kFin : End::kHang};
  });
  auto policy = quick();
  policy.first_answer_seconds = 0.5;
  policy.backoff = policy.backoff_cap = 3600;
  auto refused = policy;
  refused.connect_timeout = 0.1;
  refused.connect_attempts = 1000;
  refused.backoff = 0;
  const auto tls = [](std::string url) { return url.replace(0, 4, "https"); };
  const struct {
    std::string url;
    HttpPolicy policy;
    const char* last;
  } cases[] = {
      {hole.url("/o"), policy, ""},
      {hole.url("/o"), refused, "; last: no connection to "},
      {tls(server_->url("/o")), policy, ""},
      {server_->url("/o"), policy, ""},
      {server_->url("/ends"), policy, "; last: http://127.0.0.1"},
  };
  for (const auto& [url, numbers, last] : cases) {
    SCOPED_TRACE(url);
    const auto began = Clock::now();
    const auto source = object({.url = url, .headers = {}, .expires_at = {}}, numbers, kSize, "\"1\"");
    const auto origin = url.substr(0, url.rfind('/'));
    const auto error = expect_error(*source, ErrorCode::kTimeout, "nothing came from " + origin + " in 0.5 s: check");
    EXPECT_NE(error.message.find(std::string("firewalls") + last), std::string::npos) << error.message;
    EXPECT_EQ(error.message.ends_with("firewalls"), std::string_view(last).empty()) << error.message;
    EXPECT_GE(Clock::now() - began, milliseconds(500));
    EXPECT_LT(Clock::now() - began, milliseconds(2500));
    EXPECT_FALSE(source->host().answered());
  }
}

TEST_F(HttpTimeLimits, ManyReadsGiveUpASilentHostTogether) {
  server_->script([](const HttpRequest&) { return HttpReply{.status = 0, .end = End::kHang}; });
  auto policy = quick();
  policy.first_answer_seconds = 0.3;
  const auto source = listed(policy);
  ScriptedFeed feed(*source, kSize, kSize / 8);
  const auto began = Clock::now();
  run(feed, connections(16));
  EXPECT_LT(Clock::now() - began, milliseconds(2300));
  ASSERT_EQ(feed.errors().size(), feed.size());
  for (const auto& error : feed.errors()) EXPECT_EQ(error.code, ErrorCode::kTimeout) << error.message;
}

// Whatever it said, to whichever read.
TEST_F(HttpTimeLimits, AHostThatOnceAnsweredIsAskedAsOftenAsEver) {
  expect_error(*unknown(quick(), "/missing"), ErrorCode::kNotFound, "");
  server_->script([](const HttpRequest&) { return HttpReply{.status = 0, .end = End::kHang}; });
  server_->forget();
  auto policy = quick();
  policy.first_answer_seconds = 0.05;
  policy.connect_timeout = policy.first_byte_seconds = 0.3;
  policy.max_attempts = 2;
  EXPECT_EQ(expect_error(*listed(policy), ErrorCode::kTimeout, "the server did not answer in time").attempts, 2U);
  EXPECT_EQ(server_->requests().size(), 2U);
}

// A limit that passed while others answered has not passed for it.
TEST_F(HttpTimeLimits, WhereARedirectLeadsIsAHostOfItsOwn) {
  const auto elsewhere = HttpTestServer::make();
  elsewhere->put("/o", pattern_content(kSize, kSeed));
  std::atomic<bool> silent = true;
  server_->script([&](const HttpRequest&) {
    std::this_thread::sleep_for(milliseconds(400));
    return reply(302, {"Location: " + elsewhere->url("/o")});
  });
  elsewhere->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (silent) return HttpReply{.status = 0, .end = End::kHang};
    if (request.number == 0) std::this_thread::sleep_for(milliseconds(400));
    return std::nullopt;
  });
  auto policy = quick();
  policy.first_answer_seconds = 0.7;
  const auto origin = elsewhere->url("");
  expect_error(*listed(policy), ErrorCode::kTimeout, "nothing came from " + origin + " in 0.7 s");
  silent = false;
  elsewhere->forget();
  expect_right(*listed(policy));
  EXPECT_TRUE(hosts_.at(origin)->answered());
}

TEST_F(HttpTimeLimits, ASlowFirstByteIsWaitedFor) {
  server_->script([&](const HttpRequest&) -> std::optional<HttpReply> {
    std::this_thread::sleep_for(milliseconds(600));
    return std::nullopt;
  });
  auto policy = quick();
  policy.stall_seconds = 0.1;  // counts from the first byte
  expect_right(*listed(policy));
  EXPECT_EQ(server_->requests().size(), 1U);
}

TEST_F(HttpTimeLimits, TheDeadlineBoundsAttemptsAndWaits) {
  server_->script([](const HttpRequest&) { return reply(500, {}, "<Code>InternalError</Code>"); });
  auto policy = quick();
  policy.max_attempts = 1'000'000;
  policy.deadline = 0.3;
  const auto error = expect_error(*listed(policy), ErrorCode::kTimeout, "the deadline for one read passed; last: ");
  EXPECT_EQ(error.http_status, 500);
  EXPECT_EQ(error.service_code, "InternalError");
  EXPECT_GT(error.attempts, 1U);
}

TEST_F(HttpTimeLimits, TheDeadlineEndsABodyThatTricklesWellEnough) {
  server_->script([&](const HttpRequest& request) {
    auto reply = server_->right_answer(request);
    reply.chunk = 100;
    reply.pause = milliseconds(5);
    return reply;
  });
  auto policy = quick();
  policy.deadline = 0.3;
  EXPECT_EQ(expect_error(*listed(policy), ErrorCode::kTimeout, "deadline").attempts, 1U);
}

// The read that hangs has the last range, so that there is a median to be an outlier of.
TEST_F(HttpTimeLimits, AnOutlierIsAskedForOnASecondConnection) {
  constexpr std::uint64_t kSmall = 64 << 10;
  bool slow = false;
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.range->end != kSize || std::exchange(slow, true)) return std::nullopt;
    auto reply = server_->right_answer(request);
    reply.chunk = 10;
    reply.pause = milliseconds(10);
    reply.body.resize(3000);
    reply.end = End::kHang;
    return reply;
  });
  auto policy = quick();
  policy.hedge_seconds = 0.01;
  expect_right(*listed(policy), kSmall, connections(1));
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), kSize / kSmall + 2);
  const auto& main = requests[requests.size() - 2];
  const auto& hedge = requests.back();
  EXPECT_NE(main.connection, hedge.connection);
  EXPECT_EQ(hedge.range->end, kSize);
  EXPECT_GE(hedge.range->begin, main.range->begin);
  EXPECT_LE(hedge.range->begin, main.range->begin + 3000);
  EXPECT_EQ(hedge.header("if-match"), "\"1\"");
}

TEST_F(HttpTimeLimits, AHedgeThatFailsLeavesTheFirstAlone) {
  constexpr std::uint64_t kSmall = 64 << 10;
  std::size_t last = 0;
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.range->end != kSize) return std::nullopt;
    auto reply = server_->right_answer(request);
    if (++last > 1) return reply.cut(10, End::kReset);
    reply.chunk = 200;
    reply.until = request.number + 2;  // the rest comes when the hedge does
    return reply;
  });
  auto policy = quick();
  policy.hedge_seconds = 0.01;
  expect_right(*listed(policy), kSmall, connections(1));
  EXPECT_EQ(last, 2U);
}

TEST_F(HttpTimeLimits, WhatCannotBeToldApartIsNotAskedForTwice) {
  constexpr std::uint64_t kSmall = 64 << 10;
  server_->put("/o", {.bytes = pattern_content(kSize, kSeed).bytes, .headers = {}});
  server_->script([&](const HttpRequest& request) {
    auto reply = server_->right_answer(request);
    if (request.range->end == kSize) {
      reply.chunk = 1000;
      reply.pause = milliseconds(20);
    }
    return reply;
  });
  auto policy = quick();
  policy.hedge_seconds = 0.01;
  expect_right(*object({.url = server_->url("/o"), .headers = {}, .expires_at = {}}, policy, kSize, ""), kSmall,
               connections(1));
  EXPECT_EQ(server_->requests().size(), kSize / kSmall + 1);
}

}  // namespace
}  // namespace weightstream::testing
