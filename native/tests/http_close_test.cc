// A reader is stopped whatever it is doing: soon, with every read reported, and with nothing left behind. And the k-th
// connection or request fails, for k = 1, 2, ... until a run is clean.
#include <chrono>
#include <string>
#include <thread>

#include "http_harness.h"
#include "test_files.h"

namespace weightstream {
namespace {

using std::chrono::milliseconds;
using testing::connections;
using testing::count_descriptors;
using testing::count_threads;
using testing::eventually;
using testing::first_wrong;
using testing::HttpReaderTest;
using testing::HttpReply;
using testing::HttpRequest;
using testing::quick;
using testing::reply;
using testing::ScriptedFeed;
using End = testing::HttpReply::End;

class HttpClosing : public HttpReaderTest {
 protected:
  HttpClosing() {
    expect_right(*listed(), kRead);  // what is set up once in a process is there from now on
    connections_.close_idle();
    EXPECT_TRUE(server_->wait_until_idle());
    server_->forget();
    descriptors_ = count_descriptors();
  }

  // Starts reading, waits for `ready`, and stops: everything that was pulled must be reported as closed.
  template <typename Ready>
  void stop_when(const HttpObject& object, Ready ready) {
    ScriptedFeed feed(object, kSize, kRead);
    auto reader = make_http_reader(connections(4), connections_, nullptr, log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_pulls(4));
    ASSERT_TRUE(ready());
    const auto before = std::chrono::steady_clock::now();
    reader->stop();
    EXPECT_LT(std::chrono::steady_clock::now() - before, testing::kPatience / 4);
    EXPECT_EQ(feed.reported(), feed.pulled());
    EXPECT_EQ(feed.errors().size(), feed.pulled());
    for (const auto& error : feed.errors()) {
      EXPECT_EQ(error.code, ErrorCode::kClosed) << error.message;
      EXPECT_EQ(error.source, "the object");
      EXPECT_TRUE(error.range.has_value());
    }
    reader->stop();
    reader.reset();
    expect_nothing_left_behind();
  }
  void expect_nothing_left_behind() {
    connections_.close_idle();
    EXPECT_TRUE(server_->wait_until_idle());
    EXPECT_TRUE(eventually([&] { return count_threads() <= threads_; }))
        << count_threads() << " threads, there were " << threads_;
    EXPECT_TRUE(eventually([&] { return count_descriptors() <= descriptors_; }))
        << count_descriptors() << " descriptors, there were " << descriptors_;
  }

  const std::size_t threads_ = count_threads();
  std::size_t descriptors_ = 0;
};

TEST_F(HttpClosing, WhileBodiesAreReceived) {
  server_->script([&](const HttpRequest& request) { return server_->right_answer(request).cut(1000, End::kHang); });
  stop_when(*listed(), [&] { return server_->wait_for_requests(4); });
}

TEST_F(HttpClosing, WhileItWaitsForAnswers) {
  server_->script([&](const HttpRequest&) { return HttpReply{.status = 0, .end = End::kHang}; });
  stop_when(*listed(), [&] { return server_->wait_for_requests(4); });
}

TEST_F(HttpClosing, WhileItConnects) {
  const testing::BlackHole hole;
  descriptors_ = count_descriptors();
  stop_when(*object({.url = hole.url("/o"), .headers = {}, .expires_at = {}}, quick(), kSize, "\"1\""),
            [] { return true; });
}

TEST_F(HttpClosing, WhileANameIsLookedUp) {
  const std::string url = server_->url("/o");
  const auto source = object({.url = "http://localhost" + url.substr(url.rfind(':')), .headers = {}, .expires_at = {}},
                             quick(), kSize, "\"1\"");
  for (int i = 0; i < 10; ++i) {
    ScriptedFeed feed(*source, kSize, kRead);
    auto reader = make_http_reader(connections(4), connections_, nullptr, log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_pulls(1));
    reader.reset();
    EXPECT_EQ(feed.reported(), feed.pulled());
    for (const auto& error : feed.errors()) EXPECT_EQ(error.code, ErrorCode::kClosed) << error.message;
  }
  expect_nothing_left_behind();
}

TEST_F(HttpClosing, WhileItLeavesTheServerAlone) {
  server_->script([&](const HttpRequest&) { return reply(503, {"Retry-After: 3000"}); });
  auto policy = quick();
  policy.backoff_cap = 3600;
  const auto source = listed(policy);
  stop_when(*source, [&] { return eventually([&] { return source->host().quiet_until() > HttpHost::Clock::now(); }); });
}

TEST_F(HttpClosing, WhileItWaitsForNewCredentials) {
  renewals_ = std::make_shared<Renewals>();
  server_->script([&](const HttpRequest&) { return reply(403); });
  const auto source =
      object({.url = server_->url("/o"), .headers = {"A: b"}, .expires_at = {}}, quick(), kSize, "\"1\"");
  stop_when(*source, [&] { return renewals_->next(testing::kPatience) != nullptr; });
  source->renew({.url = server_->url("/o"), .headers = {}, .expires_at = {}});  // too late, and harmless
}

TEST_F(HttpClosing, WhileASecondConnectionRuns) {
  constexpr std::uint64_t kSmall = 64 << 10;
  std::atomic<int> slow = 0;
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.range->end != kSize) return std::nullopt;
    ++slow;
    return server_->right_answer(request).cut(10, End::kHang);
  });
  auto policy = quick();
  policy.hedge_seconds = 0.01;
  const auto source = listed(policy);
  ScriptedFeed feed(*source, kSize, kSmall);
  auto reader = make_http_reader(connections(1), connections_, nullptr, log_);
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(eventually([&] { return slow == 2; }));
  reader.reset();
  EXPECT_EQ(feed.reported(), feed.size());
  EXPECT_EQ(feed.errors().size(), 1U);
  expect_nothing_left_behind();
}

TEST_F(HttpClosing, BeforeThereIsAnythingToRead) {
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, kRead);
  feed.allow(0);
  auto reader = make_http_reader(connections(4), connections_, nullptr, log_);
  ASSERT_TRUE(reader->start(feed).ok());
  reader.reset();
  EXPECT_EQ(feed.pulled(), 0U);
  make_http_reader(connections(4), connections_, nullptr, log_)->stop();
  expect_nothing_left_behind();
}

TEST_F(HttpClosing, AtAnyMoment) {
  const auto source = listed();
  for (std::size_t after = 0; after <= 24; ++after) {
    ScriptedFeed feed(*source, kSize, 64 << 10);
    {
      const auto reader = make_http_reader(connections(3), connections_, nullptr, log_);
      ASSERT_TRUE(reader->start(feed).ok());
      ASSERT_TRUE(feed.wait_for_reports(after));
    }  // as a stream that is dropped
    ASSERT_EQ(feed.reported(), feed.pulled());
    for (std::size_t i = 0; i < feed.pulled(); ++i) {
      const auto error = feed.error(i);
      const auto& request = feed.request(i);
      if (error) {
        EXPECT_EQ(error->code, ErrorCode::kClosed) << error->message;
      } else {
        EXPECT_EQ(first_wrong({request.into, request.wanted}, kSeed, request.offset), std::nullopt);
      }
    }
  }
  expect_nothing_left_behind();
}

TEST_F(HttpClosing, TwoReadersOfOneObject) {
  const auto source = listed();
  ScriptedFeed first(*source, kSize, 64 << 10);
  ScriptedFeed second(*source, kSize, 64 << 10);
  {
    const auto one = make_http_reader(connections(2), connections_, nullptr, log_);
    const auto two = make_http_reader(connections(2), connections_, nullptr, log_);
    ASSERT_TRUE(one->start(first).ok());
    ASSERT_TRUE(two->start(second).ok());
    ASSERT_TRUE(first.wait_for_reports(first.size()));
    ASSERT_TRUE(second.wait_for_reports(second.size()));
  }
  EXPECT_EQ(first_wrong(first.bytes(), kSeed, 0), std::nullopt);
  EXPECT_EQ(first_wrong(second.bytes(), kSeed, 0), std::nullopt);
  expect_nothing_left_behind();
}

enum class HttpFault { kConnectionReset, kRequestReset, kBodyReset, kBodyEnds, kBusy, kServerError };

class HttpFaults : public HttpClosing, public ::testing::WithParamInterface<HttpFault> {
 protected:
  // One load of the object in which the k-th operation fails; whether it did.
  bool run_once(std::size_t k, std::uint32_t attempts) {
    SCOPED_TRACE("operation " + std::to_string(k) + " of " + std::to_string(attempts) + " attempts");
    watchdog_.begin("operation " + std::to_string(k));
    server_->forget();
    bool happened = false;  // under the server's lock until it is idle
    server_->door([&, k](std::size_t number) {
      if (GetParam() != HttpFault::kConnectionReset || number != k) return true;
      happened = true;
      return false;
    });
    server_->script([&, k](const HttpRequest& request) -> std::optional<HttpReply> {
      if (GetParam() == HttpFault::kConnectionReset || request.number != k) return std::nullopt;
      happened = true;
      auto right = server_->right_answer(request);
      switch (GetParam()) {
        case HttpFault::kRequestReset:
          return HttpReply{.status = 0, .end = End::kReset};
        case HttpFault::kBodyReset:
          return right.cut(right.body.size() / 2, End::kReset);
        case HttpFault::kBodyEnds:
          return right.cut(right.body.size() - 1, End::kFin);
        case HttpFault::kBusy:
          return reply(503, {"Retry-After: 0"});
        default:
          return reply(500);
      }
    });
    auto policy = quick();
    policy.max_attempts = attempts;
    const auto source = listed(policy);
    ScriptedFeed feed(*source, kSize, kRead);
    run(feed, connections(2));
    expect_nothing_left_behind();
    const auto errors = feed.errors();
    if (attempts > 1) {
      EXPECT_TRUE(errors.empty()) << errors[0].message;
      EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
      EXPECT_LE(feed.retries(), 1U);
    } else {
      // libcurl itself may have asked again, on a fresh connection, if the one that was reset was a kept one.
      EXPECT_LE(errors.size(), happened ? 1U : 0U);
      for (const auto& error : errors) {
        EXPECT_TRUE(error.code == ErrorCode::kServer || error.code == ErrorCode::kTruncated ||
                    error.code == ErrorCode::kThrottled)
            << error.message;
        EXPECT_EQ(error.source, "the object");
        EXPECT_TRUE(error.range.has_value());
        EXPECT_EQ(error.attempts, 1U);
      }
      for (std::size_t i = 0; i < feed.size(); ++i) {
        const auto& request = feed.request(i);
        if (!feed.error(i)) {
          EXPECT_EQ(first_wrong({request.into, request.wanted}, kSeed, request.offset), std::nullopt);
        }
      }
    }
    server_->door(nullptr);
    server_->script(nullptr);
    expect_right(*listed(), kRead);  // the next load works
    expect_nothing_left_behind();
    return happened;
  }
};

std::string name(HttpFault fault) {
  const char* const names[] = {"ConnectionReset", "RequestReset", "BodyReset", "BodyEnds", "Busy", "ServerError"};
  return names[static_cast<std::size_t>(fault)];
}

INSTANTIATE_TEST_SUITE_P(All, HttpFaults,
                         ::testing::Values(HttpFault::kConnectionReset, HttpFault::kRequestReset, HttpFault::kBodyReset,
                                           HttpFault::kBodyEnds, HttpFault::kBusy, HttpFault::kServerError),
                         [](const auto& test) { return name(test.param); });

TEST_P(HttpFaults, FailTheKthOperation) {
  for (const std::uint32_t attempts : {1U, 8U}) {
    std::size_t k = 0;
    while (run_once(k, attempts)) {
      if (HasFailure()) return;
      ASSERT_LT(++k, 100U) << "no run is ever clean";
    }
    EXPECT_GE(k, 1U) << "it never happened";
  }
}

}  // namespace
}  // namespace weightstream
