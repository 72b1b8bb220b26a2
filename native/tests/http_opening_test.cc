// Objects of which nothing is known yet: the first read says what they are.
#include <string>

#include "http_harness.h"
#include "test_files.h"

namespace weightstream::testing {
namespace {

using End = HttpReply::End;
using HttpOpening = HttpReaderTest;

constexpr std::uint64_t kMiB = 1 << 20;

TEST_F(HttpOpening, TheFirstReadSaysWhatTheObjectIs) {
  const auto source = unknown();
  ScriptedFeed feed(*source, 4 * kMiB, 4 * kMiB);
  guard(feed);
  run(feed);
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(source->size(), kSize);
  EXPECT_EQ(source->if_match(), "\"1\"");
  EXPECT_EQ(first_wrong(feed.bytes().first(kSize), kSeed, 0), std::nullopt);
  EXPECT_TRUE(untouched(feed, kSize, 4 * kMiB));
  EXPECT_EQ(server_->requests()[0].header("if-match"), "");
  EXPECT_EQ(server_->requests()[0].range, (ByteRange{0, 4 * kMiB}));
}

TEST_F(HttpOpening, ItsReadIsResumedAsAnyOther) {
  server_->script([&](const HttpRequest& request) -> std::optional<HttpReply> {
    if (request.number == 0) return server_->right_answer(request).cut(5000, End::kFin);
    return std::nullopt;
  });
  const auto source = unknown();
  ScriptedFeed feed(*source, 4 * kMiB, 4 * kMiB);
  run(feed);
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(first_wrong(feed.bytes().first(kSize), kSeed, 0), std::nullopt);
  EXPECT_EQ(server_->requests().at(1).range, (ByteRange{5000, kSize}));
  EXPECT_EQ(server_->requests().at(1).header("if-match"), "\"1\"");
}

TEST_F(HttpOpening, AnEmptyObject) {
  server_->put("/o", {.bytes = ""});
  const auto open = [&] {
    const auto source = unknown();
    ScriptedFeed feed(*source, kMiB, kMiB);
    guard(feed);
    run(feed);
    for (const auto& error : feed.errors()) ADD_FAILURE() << error.message;
    EXPECT_TRUE(source->size_known());
    EXPECT_EQ(source->size(), 0U);
    EXPECT_TRUE(untouched(feed, 0, kMiB));
  };
  open();
  server_->script([](const HttpRequest&) { return reply(200); });
  open();
}

TEST_F(HttpOpening, ASmallObjectFromAServerWithoutRanges) {
  server_->put("/o", pattern_content(5000, kSeed));
  server_->script([&](HttpRequest request) {
    request.range.reset();
    return server_->right_answer(request);
  });
  const auto source = unknown();
  ScriptedFeed feed(*source, kMiB, kMiB);
  guard(feed);
  run(feed);
  EXPECT_TRUE(feed.errors().empty());
  EXPECT_EQ(source->size(), 5000U);
  EXPECT_EQ(first_wrong(feed.bytes().first(5000), kSeed, 0), std::nullopt);
  EXPECT_TRUE(untouched(feed, 5000, kMiB));
}

}  // namespace
}  // namespace weightstream::testing
