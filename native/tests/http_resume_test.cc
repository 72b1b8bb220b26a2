// Bodies that break off are resumed where they were, if the object has a version.
#include <string>

#include "http_harness.h"
#include "test_files.h"

namespace weightstream::testing {
namespace {

using End = HttpReply::End;
using HttpResume = HttpReaderTest;

constexpr std::uint64_t kMiB = 1 << 20;

TEST_F(HttpResume, AConnectionThatEndsIsResumedAtItsByte) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number < 3) return server_->right_answer(request).cut(10'001, End::kFin);
    return std::nullopt;
  });
  expect_right(*listed());
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), 4U);
  for (std::uint64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(requests[i].range, (ByteRange{i * 10'001, kSize}));
    EXPECT_EQ(requests[i].header("if-match"), "\"1\"");
  }
}

TEST_F(HttpResume, AConnectionThatIsResetIsResumedWhereItWas) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return server_->right_answer(request).cut(10'001, End::kReset);
    return std::nullopt;
  });
  expect_right(*listed());
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), 2U);
  EXPECT_LE(requests[1].range->begin, 10'001U);
  EXPECT_EQ(requests[1].header("if-match"), "\"1\"");
}

TEST_F(HttpResume, AChunkedBodyThatEndsEarlyIsResumed) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number > 1) return std::nullopt;
    auto reply = server_->right_answer(request).set("Content-Length", "").set("Transfer-Encoding", "chunked");
    reply.body = "3e8\r\n" + reply.body.substr(0, 1000) + "\r\n";
    if (request.number == 1) reply.body += "0\r\n\r\n";  // an end in good order, and too early all the same
    reply.end = End::kFin;
    return reply;
  });
  expect_right(*listed());
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), 3U);
  EXPECT_EQ(requests[1].range->begin, 1000U);
  EXPECT_EQ(requests[2].range->begin, 2000U);
}

TEST_F(HttpResume, ABodyThatAlwaysEndsEarlyIsTruncated) {
  server_->script([&](const HttpRequest& request) {
    return server_->right_answer(request).set("x-amz-request-id", "r1").cut(1000, End::kFin);
  });
  auto policy = quick();
  policy.max_attempts = 3;
  const auto error = expect_error(*listed(policy), ErrorCode::kTruncated, "ended before the range did");
  EXPECT_EQ(error.attempts, 3U);
  EXPECT_EQ(error.expected, kSize);
  EXPECT_EQ(error.got, 3000U);
  EXPECT_EQ(error.http_status, 206);
  EXPECT_EQ(error.request_id, "r1");
  EXPECT_EQ(server_->requests().size(), 3U);
}

TEST_F(HttpResume, AttemptsThatBringAMiBDoNotCount) {
  constexpr std::uint64_t kLarge = 5 * kMiB;
  server_->put("/o", pattern_content(kLarge, kSeed));
  server_->script([&](const HttpRequest& request) { return server_->right_answer(request).cut(kMiB, End::kFin); });
  auto policy = quick();
  policy.max_attempts = 2;
  const auto source = object({.url = server_->url("/o"), .headers = {}, .expires_at = {}}, policy, kLarge, "\"1\"");
  ScriptedFeed feed(*source, kLarge, kLarge);
  run(feed);
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
  EXPECT_EQ(feed.retries(), 4U);
}

TEST_F(HttpResume, WithoutAVersionABrokenReadStartsAnew) {
  server_->put("/o", {.bytes = pattern_content(kSize, kSeed).bytes, .headers = {}});
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number < 2) return server_->right_answer(request).cut(10'000, End::kFin);
    return std::nullopt;
  });
  expect_right(*object({.url = server_->url("/o"), .headers = {}, .expires_at = {}}, quick(), kSize, ""));
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), 3U);
  for (const auto& request : requests) {
    EXPECT_EQ(request.range->begin, 0U);
    EXPECT_EQ(request.header("if-match"), "");
  }
}

// Each attempt brings a MiB, and all of it is for nothing.
TEST_F(HttpResume, WithoutAVersionAttemptsCountWhateverTheyBring) {
  server_->put("/o", {.bytes = pattern_content(kSize, kSeed).bytes, .headers = {}});
  server_->script([&](const HttpRequest& request) { return server_->right_answer(request).cut(kMiB, End::kFin); });
  auto policy = quick();
  policy.max_attempts = 3;
  policy.deadline = 20;
  const auto source = object({.url = server_->url("/o"), .headers = {}, .expires_at = {}}, policy, kSize, "");
  EXPECT_EQ(expect_error(*source, ErrorCode::kTruncated, "ended before the range did").attempts, 3U);
}

TEST_F(HttpResume, LastModifiedIsEnoughToResume) {
  server_->put("/o", {.bytes = pattern_content(kSize, kSeed).bytes, .headers = {"Last-Modified: Monday"}});
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return server_->right_answer(request).cut(10'000, End::kFin);
    return std::nullopt;
  });
  expect_right(*object({.url = server_->url("/o"), .headers = {}, .expires_at = {}}, quick(), kSize, ""));
  EXPECT_EQ(server_->requests().at(1).range->begin, 10'000U);
}

}  // namespace
}  // namespace weightstream::testing
