// Whole reads over HTTP: the right bytes, answers that are not to be trusted, and connections that fail.
#include "storage/http_reader.h"

#include <sys/resource.h>

#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

#include "http_harness.h"
#include "test_files.h"

namespace weightstream::testing {
namespace {

using std::chrono::milliseconds;
using End = HttpReply::End;

TEST_F(HttpReaderTest, ReadsAnObjectInReadsOfAnySize) {
  for (const std::uint64_t bytes : {std::uint64_t{16} << 10, kRead, kSize}) {
    server_->forget();
    expect_right(*listed(), bytes);
    const auto requests = server_->requests();
    EXPECT_EQ(requests.size(), (kSize + bytes - 1) / bytes);
    for (const auto& request : requests) {
      EXPECT_EQ(request.header("if-match"), "\"1\"");
      EXPECT_EQ(request.header("accept-encoding"), "identity");
      ASSERT_TRUE(request.range.has_value());
      EXPECT_EQ(request.range->begin % bytes, 0U);
      EXPECT_EQ(request.range->end, std::min(request.range->begin + bytes, kSize));
    }
    EXPECT_LE(server_->connections(), 4U);
  }
}

TEST_F(HttpReaderTest, TheNextReaderTakesOverTheConnections) {
  for (int i = 0; i < 3; ++i) expect_right(*listed(), kRead, connections(1));
  EXPECT_EQ(server_->connections(), 1U);
  connections_.close_idle();
  EXPECT_TRUE(server_->wait_until_idle());
}

TEST_F(HttpReaderTest, KeepsToItsConnections) {
  for (const std::uint32_t count : {1U, 2U, 5U}) {
    connections_.close_idle();
    server_->forget();
    const auto source = listed();
    ScriptedFeed feed(*source, kSize, 16 << 10);
    run(feed, connections(count));
    EXPECT_LE(feed.most_in_flight(), count);
    EXPECT_LE(server_->connections(), count);
    EXPECT_TRUE(feed.errors().empty());
  }
}

TEST_F(HttpReaderTest, PullsAgainWhenItIsWoken) {
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, kRead);
  feed.allow(0);
  const auto reader = make_http_reader(connections(2), connections_, nullptr, log_);
  ASSERT_TRUE(reader->start(feed).ok());
  for (std::size_t i = 1; i <= feed.size(); ++i) {
    ASSERT_TRUE(feed.wait_for_empty_pulls(i));
    feed.allow(i);
    reader->wake();
    ASSERT_TRUE(feed.wait_for_reports(i));
  }
  reader->stop();
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
}

// With the first read of a larger object, so that what must not be written to is memory of the next one.
TEST_F(HttpReaderTest, MoreBytesThanAskedAreNeverWritten) {
  const std::string more(300 << 10, 'x');
  const auto read_first = [&](bool length, bool ends_well) {
    SCOPED_TRACE(length ? "with Content-Length" : "without");
    server_->script([&, length](const HttpRequest& request) {
      auto reply = server_->right_answer(request);
      if (!length) reply.set("Content-Length", "");
      reply.body += more;
      reply.end = End::kFin;
      return reply;
    });
    const auto source = listed();
    ScriptedFeed feed(*source, kSize, kRead);
    guard(feed);
    feed.allow(1);
    const auto reader = make_http_reader(connections(2), connections_, nullptr, log_);
    ASSERT_TRUE(reader->start(feed).ok());
    ASSERT_TRUE(feed.wait_for_reports(1));
    reader->stop();
    EXPECT_TRUE(untouched(feed, kRead, kSize));
    EXPECT_TRUE(untouched_after(feed));
    if (ends_well) {
      EXPECT_FALSE(feed.error(0).has_value());
      EXPECT_EQ(first_wrong(feed.bytes().first(kRead), kSeed, 0), std::nullopt);
    } else {
      ASSERT_TRUE(feed.error(0).has_value());
      EXPECT_EQ(feed.error(0)->code, ErrorCode::kProtocol);
      EXPECT_NE(feed.error(0)->message.find("more bytes"), std::string::npos) << feed.error(0)->message;
      EXPECT_EQ(feed.error(0)->attempts, 1U);
    }
  };
  read_first(true, true);  // the response ended where it said; what follows it is another matter
  connections_.close_idle();
  read_first(false, false);
}

TEST_F(HttpReaderTest, AWholeObjectForARangeIsNotEvenReceived) {
  server_->script([&](HttpRequest request) {
    request.range.reset();
    return server_->right_answer(request);
  });
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, kRead);
  guard(feed);
  run(feed);
  ASSERT_EQ(feed.errors().size(), feed.size());
  for (const auto& error : feed.errors()) {
    EXPECT_EQ(error.code, ErrorCode::kProtocol);
    EXPECT_EQ(error.http_status, 200);
    EXPECT_EQ(error.attempts, 1U);
  }
  EXPECT_TRUE(untouched(feed, 0, kSize));
}

TEST_F(HttpReaderTest, AnswersThatAreNotTrustworthy) {
  struct Row {
    std::string name;
    std::string value;
    ErrorCode code;
    std::string_view words;
  };
  const std::string last = std::to_string(kSize - 1);
  for (const auto& row : {
           Row{"Content-Range", "", ErrorCode::kProtocol, "without Content-Range"},
           Row{"Content-Range", "bytes 1-" + last + "/" + std::to_string(kSize), ErrorCode::kProtocol, "another range"},
           Row{"Content-Range", "bytes 0-" + last + "/" + std::to_string(kSize + 1), ErrorCode::kSourceChanged, "size"},
           Row{"ETag", "\"2\"", ErrorCode::kSourceChanged, "ETag"},
           Row{"Content-Encoding", "gzip", ErrorCode::kProtocol, "encoding"},
       }) {
    SCOPED_TRACE(row.name);
    server_->script(
        [&](const HttpRequest& request) { return server_->right_answer(request).set(row.name, row.value); });
    server_->forget();
    const auto source = listed();
    ScriptedFeed feed(*source, kSize, kSize);
    guard(feed);
    run(feed);
    ASSERT_TRUE(feed.error(0).has_value());
    EXPECT_EQ(feed.error(0)->code, row.code);
    EXPECT_NE(feed.error(0)->message.find(row.words), std::string::npos) << feed.error(0)->message;
    EXPECT_EQ(server_->requests().size(), 1U) << "asking again changes nothing";
    EXPECT_TRUE(untouched(feed, 0, kSize));
  }
}

TEST_F(HttpReaderTest, AnObjectThatIsReplacedMeanwhile) {
  for (const bool checks : {true, false}) {
    SCOPED_TRACE(checks ? "the server checks If-Match" : "it does not");
    server_->forget();
    server_->script([&, checks](HttpRequest request) -> std::optional<HttpReply> {
      if (request.number == 0) return server_->right_answer(request).cut(10'000, End::kFin);
      if (checks) return reply(412);
      return server_->right_answer(request).set("ETag", "\"2\"");
    });
    const auto source = listed();
    ScriptedFeed feed(*source, kSize, kSize);
    guard(feed);
    run(feed);
    ASSERT_TRUE(feed.error(0).has_value());
    EXPECT_EQ(feed.error(0)->code, ErrorCode::kSourceChanged);
    EXPECT_EQ(feed.error(0)->attempts, 2U);
    EXPECT_EQ(server_->requests().size(), 2U);
    EXPECT_TRUE(untouched(feed, 10'000, kSize)) << "bytes of another version were kept";
  }
}

TEST_F(HttpReaderTest, HeadersAreCapped) {
  server_->script([&](const HttpRequest& request) {
    auto reply = server_->right_answer(request);
    for (int i = 0; i < 70; ++i) reply.headers.push_back("X-Bomb-" + std::to_string(i) + ": " + std::string(1000, 'x'));
    return reply;
  });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kProtocol, "64 KiB of response headers").attempts, 1U);
}

TEST_F(HttpReaderTest, OneHeaderLineThatDoesNotEnd) {
  server_->script([&](const HttpRequest& request) {
    return server_->right_answer(request).set("X-Bomb", std::string(1 << 20, 'x'));
  });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kProtocol, "").attempts, 1U);
  server_->script(
      [](const HttpRequest&) { return HttpReply{.status = 0, .body = std::string(1 << 20, 'x'), .end = End::kFin}; });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kProtocol, "").attempts, 1U);
}

// A server that goes on after the end of its answer is not heard: the connection is given up, before the next request
// or with it.
TEST_F(HttpReaderTest, BytesAfterAnAnswerAreNotTakenForTheObject) {
  server_->script([&](const HttpRequest& request) {
    auto reply = server_->right_answer(request);
    reply.body += std::string(300 << 10, 'x');
    return reply;
  });
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, kRead);
  guard(feed);
  run(feed, connections(1));
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(feed.retries(), 0U);
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
  EXPECT_TRUE(untouched_after(feed));
  EXPECT_EQ(server_->connections(), feed.size());
}

TEST_F(HttpReaderTest, SomethingElseThanHttp) {
  server_->script(
      [](const HttpRequest&) { return HttpReply{.status = 0, .body = "SSH-2.0-OpenSSH_9.2\r\n", .end = End::kFin}; });
  EXPECT_EQ(expect_error(*listed(), ErrorCode::kProtocol, "does not answer in HTTP/1.1").attempts, 1U);
}

TEST_F(HttpReaderTest, ConnectionsThatEndBetweenRequestsAreNotNoticed) {
  server_->script([&](const HttpRequest& request) {
    auto reply = server_->right_answer(request);
    reply.end = End::kFin;  // without a word in the headers
    return reply;
  });
  expect_right(*listed(), 16 << 10, connections(2));
}

TEST_F(HttpReaderTest, ReadsFromAHostByItsName) {
  const std::string url = server_->url("/o");
  const std::string by_name = "http://localhost" + url.substr(url.rfind(':'));
  expect_right(*object({.url = by_name, .headers = {"A: b"}, .expires_at = {}}, quick(), kSize, "\"1\""), kRead);
}

TEST_F(HttpReaderTest, WithoutDescriptorsItDoesNotStart) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "UndefinedBehaviorSanitizer opens a pipe to look at an object's type";
#endif
  const auto source = listed();
  ScriptedFeed feed(*source, kSize, kRead);
  struct rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  // Each limit below what it needs stops it at another place.
  bool started = false;
  for (rlim_t limit = 3; !started; ++limit) {
    ASSERT_LT(limit, before.rlim_cur);
    const auto reader = make_http_reader(connections(2), connections_, nullptr, log_);
    struct rlimit low = before;
    low.rlim_cur = limit;
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &low), 0);
    feed.allow(0);
    const auto outcome = reader->start(feed);
    ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
    started = outcome.ok();
    if (started) continue;
    EXPECT_EQ(outcome.error().code, ErrorCode::kStorage);
    EXPECT_EQ(outcome.error().system_errno, EMFILE) << outcome.error().message;
  }
  EXPECT_EQ(feed.pulled(), 0U);
  expect_right(*source, kRead);
}

TEST_F(HttpReaderTest, NobodyListens) {
  const HttpTestServer deaf;
  auto policy = quick();
  policy.connect_attempts = 2;
  const auto source = object({.url = deaf.url("/o?secret"), .headers = {}, .expires_at = {}}, policy, kSize, "\"1\"");
  const auto error = expect_error(*source, ErrorCode::kServer, "no connection to " + origin_of(deaf.url("/")));
  EXPECT_EQ(error.attempts, 2U);
  EXPECT_EQ(error.message.find("secret"), std::string::npos);
}

TEST_F(HttpReaderTest, SomebodyListensInTheEnd) {
  HttpTestServer late;
  late.put("/o", pattern_content(kSize, kSeed));
  auto policy = quick();
  policy.connect_attempts = policy.max_attempts = 1'000'000;
  const auto source = object({.url = late.url("/o"), .headers = {}, .expires_at = {}}, policy, kSize, "\"1\"");
  std::thread listener([&] {
    std::this_thread::sleep_for(milliseconds(50));
    late.listen();
  });
  expect_right(*source, kRead);
  listener.join();
}

}  // namespace
}  // namespace weightstream::testing
