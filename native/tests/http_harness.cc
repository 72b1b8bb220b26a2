#include "http_harness.h"

#include <algorithm>
#include <span>

#include "test_files.h"

namespace weightstream::testing {
namespace {

constexpr std::byte kGuard{0xA5};

}  // namespace

HttpPolicy quick() {
  HttpPolicy policy;
  policy.connect_timeout = 50;
  policy.first_byte_seconds = 50;
  policy.backoff = 0.001;
  policy.backoff_cap = 0.02;
  policy.stall_seconds = 3600;
  policy.hedge_seconds = 0;
  return policy;
}

HttpReaderOptions connections(std::uint32_t count) {
  return {.start_concurrency = count, .most_concurrency = count, .threads = std::min(count, 2U)};
}

HttpReaderTest::HttpReaderTest() { server_->put("/o", pattern_content(kSize, kSeed)); }

std::shared_ptr<HttpObject> HttpReaderTest::object(HttpAccess access, HttpPolicy policy,
                                                   std::optional<std::uint64_t> size, std::string etag) {
  HttpOptions options;
  options.policy = policy;
  auto made =
      HttpObject::make("the object", std::move(access), size, std::move(etag), std::move(options), renewals_, hosts_);
  EXPECT_TRUE(made.ok()) << made.error().message;
  return *made;
}

std::shared_ptr<HttpObject> HttpReaderTest::listed(HttpPolicy policy, const std::string& path) {
  return object({.url = server_->url(path), .headers = {}, .expires_at = {}}, policy, kSize, "\"1\"");
}

std::shared_ptr<HttpObject> HttpReaderTest::unknown(HttpPolicy policy, const std::string& path) {
  return object({.url = server_->url(path), .headers = {}, .expires_at = {}}, policy, std::nullopt, "");
}

void HttpReaderTest::guard(ScriptedFeed& feed) {
  for (std::size_t i = 0; i < feed.size(); ++i) {
    const auto& request = feed.request(i);
    std::fill_n(request.into, request.length, kGuard);
  }
}

bool HttpReaderTest::untouched(const ScriptedFeed& feed, std::uint64_t begin, std::uint64_t end) {
  const std::byte* memory = feed.request(0).into;
  return std::all_of(memory + begin, memory + end, [](std::byte b) { return b == kGuard; });
}

bool HttpReaderTest::untouched_after(const ScriptedFeed& feed) {
  const auto& last = feed.request(feed.size() - 1);
  return untouched(feed, last.offset + last.wanted, last.offset + last.length);
}

void HttpReaderTest::run(ScriptedFeed& feed, HttpReaderOptions options) {
  const auto reader = make_http_reader(options, connections_, nullptr, log_);
  ASSERT_TRUE(reader->start(feed).ok());
  ASSERT_TRUE(feed.wait_for_reports(feed.size()));
  reader->stop();
}

void HttpReaderTest::expect_right(const HttpObject& object, std::uint64_t bytes, HttpReaderOptions options) {
  ScriptedFeed feed(object, kSize, std::min(bytes, kSize));
  guard(feed);
  run(feed, options);
  for (const auto& error : feed.errors()) ADD_FAILURE() << error.message;
  EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
  EXPECT_TRUE(untouched_after(feed));
}

Error HttpReaderTest::expect_error(const HttpObject& object, ErrorCode code, std::string_view words) {
  ScriptedFeed feed(object, kSize, kSize);
  guard(feed);
  run(feed);
  EXPECT_TRUE(untouched_after(feed));
  const auto error = feed.error(0);
  if (!error) {
    ADD_FAILURE() << "it went well";
    return {};
  }
  EXPECT_EQ(error->code, code) << error->message;
  EXPECT_NE(error->message.find(words), std::string::npos) << error->message;
  EXPECT_EQ(error->source, "the object");
  EXPECT_EQ(error->range, (ByteRange{0, kSize}));
  return *error;
}

}  // namespace weightstream::testing
