// What is read from the head of a response, and from the body of an error: byte literals, good and bad.
#include "storage/http_head.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>
#include <string_view>

namespace weightstream {
namespace {

TEST(ContentRange, IsAHalfOpenRangeAndATotal) {
  struct Row {
    std::string_view value;
    std::optional<ByteRange> range;
    std::optional<std::uint64_t> total;
  };
  for (const auto& [value, range, total] : {
           Row{"bytes 0-0/1", ByteRange{0, 1}, 1},
           Row{"bytes 0-9/10", ByteRange{0, 10}, 10},
           Row{"bytes 5-9/100", ByteRange{5, 10}, 100},
           Row{"BYTES 5-9/100", ByteRange{5, 10}, 100},
           Row{" \tbytes  5-9/100 \r\n", ByteRange{5, 10}, 100},
           Row{"bytes 5-9/*", ByteRange{5, 10}, std::nullopt},
           Row{"bytes */10", std::nullopt, 10},
           Row{"bytes */0", std::nullopt, 0},
           Row{"bytes */*", std::nullopt, std::nullopt},
           Row{"bytes 18446744073709551613-18446744073709551614/18446744073709551615",
               ByteRange{UINT64_MAX - 2, UINT64_MAX}, UINT64_MAX},
       }) {
    SCOPED_TRACE(value);
    const auto parsed = parse_content_range(value);
    ASSERT_TRUE(parsed.has_value());
    EXPECT_EQ(parsed->range, range);
    EXPECT_EQ(parsed->total, total);
  }
}

TEST(ContentRange, AnythingElseIsNone) {
  for (const std::string_view value : {
           "",
           "b",
           "bytes",
           "bytes ",
           "bytes 0-9",
           "bytes/10",
           "items 0-9/10",
           "bytes=0-9/10",
           "bytes\t0-9/10",
           "bytes 9-0/10",
           "bytes 0-10/10",
           "bytes 0-9/0",
           "bytes 0-18446744073709551615/*",
           "bytes 0-18446744073709551616/*",
           "bytes 0-9/18446744073709551616",
           "bytes 0-9/99999999999999999999999999999999999999",
           "bytes -1-5/10",
           "bytes +0-5/10",
           "bytes 0-/10",
           "bytes -9/10",
           "bytes -/10",
           "bytes 0-9/",
           "bytes 0-9/-10",
           "bytes 0-9/x",
           "bytes 0-9/10x",
           "bytes 0-9/10,20-29/100",
           "bytes 0 - 9/10",
           "bytes 0x0-9/10",
           "bytes 0-9-11/20",
           "bytes **/10",
           "bytes 0-9/**",
       }) {
    EXPECT_FALSE(parse_content_range(value).has_value()) << value;
  }
  EXPECT_FALSE(parse_content_range(std::string_view("bytes 0-9\0/10", 13)).has_value());
}

HttpHead head_of(std::initializer_list<std::string_view> lines) {
  HttpHead head;
  for (const auto line : lines) EXPECT_TRUE(head.add(line)) << line;
  return head;
}

TEST(HttpHead, KeepsWhatTheReaderNeeds) {
  const auto head =
      head_of({"HTTP/1.1 206 Partial Content\r\n", "Content-Length: 10\r\n", "Content-Range: bytes 0-9/100\r\n",
               "Content-Encoding: gzip\r\n", "ETag: \"a:b\"\r\n", "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\n",
               "Location: /else?where=1\r\n", "Retry-After: 3\r\n", "x-amz-version-id: v1\r\n",
               "x-amz-bucket-region: eu-west-1\r\n", "x-ms-error-code: BlobNotFound\r\n",
               "x-amz-request-id: 4442587FB7D0A2F9\r\n", "Server: something else\r\n", "\r\n"});
  EXPECT_EQ(head.status, 206);
  EXPECT_EQ(head.content_length, 10U);
  EXPECT_EQ(head.content_range, "bytes 0-9/100");
  EXPECT_EQ(head.content_encoding, "gzip");
  EXPECT_EQ(head.etag, "\"a:b\"");
  EXPECT_EQ(head.last_modified, "Mon, 01 Jan 2024 00:00:00 GMT");
  EXPECT_EQ(head.location, "/else?where=1");
  EXPECT_EQ(head.retry_after, "3");
  EXPECT_EQ(head.version_id, "v1");
  EXPECT_EQ(head.bucket_region, "eu-west-1");
  EXPECT_EQ(head.service_code, "BlobNotFound");
  EXPECT_EQ(head.request_id, "4442587FB7D0A2F9");
}

TEST(HttpHead, NamesHaveNoCaseAndValuesNoBlanksAround) {
  const auto head = head_of({"HTTP/1.1 200 OK", "CONTENT-LENGTH:7", "eTAG:\t \"x\" \t", "last-modified :  now  "});
  EXPECT_EQ(head.content_length, 7U);
  EXPECT_EQ(head.etag, "\"x\"");
  EXPECT_EQ(head.last_modified, "now");
  EXPECT_EQ(head.retry_after, "");
}

TEST(HttpHead, StatusLines) {
  EXPECT_EQ(head_of({"HTTP/1.1 206 Partial Content\r\n"}).status, 206);
  EXPECT_EQ(head_of({"HTTP/1.0 200\r\n"}).status, 200);
  EXPECT_EQ(head_of({"HTTP/2 503 \r\n"}).status, 503);
  EXPECT_EQ(head_of({"HTTP/1.1\r\n"}).status, 0);
  EXPECT_EQ(head_of({"HTTP/1.1 \r\n"}).status, 0);
  EXPECT_EQ(head_of({"HTTP/1.1 2x6 OK\r\n"}).status, 0);
  EXPECT_EQ(head_of({"HTTP/1.1 -20 OK\r\n"}).status, 0);
  EXPECT_EQ(head_of({"ICY 200 OK\r\n"}).status, 0);
}

TEST(HttpHead, AStatusLineStartsAnew) {
  const auto head = head_of({"HTTP/1.1 100 Continue\r\n", "ETag: \"of another\"\r\n", "Retry-After: 1\r\n", "\r\n",
                             "HTTP/1.1 206 Partial Content\r\n", "Content-Length: 5\r\n", "\r\n"});
  EXPECT_EQ(head.status, 206);
  EXPECT_EQ(head.etag, "");
  EXPECT_EQ(head.retry_after, "");
  EXPECT_EQ(head.content_length, 5U);
}

TEST(HttpHead, OfDuplicatesTheLastCounts) {
  const auto head =
      head_of({"HTTP/1.1 200 OK", "ETag: \"a\"", "ETag: \"b\"", "Content-Length: 5", "content-length: 6"});
  EXPECT_EQ(head.etag, "\"b\"");
  EXPECT_EQ(head.content_length, 6U);
  // The service's own id is better than that of whatever is in front of it, in either order.
  EXPECT_EQ(head_of({"x-amz-request-id: service", "x-request-id: proxy"}).request_id, "service");
  EXPECT_EQ(head_of({"x-request-id: proxy", "x-amz-request-id: service"}).request_id, "service");
}

TEST(HttpHead, ALengthThatIsNoNumberIsNone) {
  for (const std::string_view line :
       {"Content-Length: -1", "Content-Length: 1e3", "Content-Length: 18446744073709551616",
        "Content-Length:", "Content-Length: 5, 5", "Content-Length: 0x10", "Content-Length: +5"}) {
    EXPECT_FALSE(head_of({"HTTP/1.1 200 OK", line}).content_length.has_value()) << line;
  }
}

// Codes and ids are printed. A server that answers with something else there is not quoted.
TEST(HttpHead, CodesAndIdsAreWords) {
  EXPECT_EQ(head_of({"x-request-id: abc-DEF_1.2:3/4+5= 6"}).request_id, "abc-DEF_1.2:3/4+5= 6");
  EXPECT_EQ(head_of({"x-request-id: <b>bold</b>"}).request_id, "");
  EXPECT_EQ(head_of({"x-ms-error-code: a\x1b[31m"}).service_code, "");
  EXPECT_EQ(head_of({"x-amz-bucket-region: eu?token=1"}).bucket_region, "");
  EXPECT_EQ(head_of({"x-ms-error-code: " + std::string(100, 'a')}).service_code, std::string(100, 'a'));
  EXPECT_EQ(head_of({"x-ms-error-code: " + std::string(101, 'a')}).service_code, "");
}

TEST(HttpHead, LinesWithoutAColonSayNothing) {
  const auto head = head_of({"HTTP/1.1 200 OK", "", "\r\n", "ETag", std::string_view("\0:\0", 3), ":", "::::"});
  EXPECT_EQ(head.status, 200);
  EXPECT_EQ(head.etag, "");
}

TEST(HttpHead, IsAtMost64KiB) {
  HttpHead head;
  const std::string line = "X: " + std::string(1021, 'x');
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(head.add(line)) << i;
  EXPECT_FALSE(head.add("X"));
}

TEST(HttpHead, OneHugeLineIsTooMuch) {
  HttpHead head;
  EXPECT_FALSE(head.add("ETag: " + std::string(64 << 10, 'x')));
  EXPECT_EQ(head.etag, "");
}

// Otherwise a server could send "100 Continue" for ever.
TEST(HttpHead, TheLimitIsOfAllHeadsOfAResponse) {
  HttpHead head;
  const std::string line = "HTTP/1.1 100 Continue";
  int lines = 0;
  while (head.add(line)) ASSERT_LT(++lines, 1 << 16);
  EXPECT_EQ(lines, static_cast<int>((64 << 10) / line.size()));
}

TEST(ServiceCode, OfTheServices) {
  EXPECT_EQ(service_code_of(R"(<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message><Key>a</Key></Error>)"),
            "NoSuchKey");
  EXPECT_EQ(service_code_of("\xEF\xBB\xBF<?xml version=\"1.0\"?><Error><Code> AuthenticationFailed\n</Code></Error>"),
            "AuthenticationFailed");
  EXPECT_EQ(service_code_of(R"({"error": {"code": 404, "message": "No such object: b/o",
    "errors": [{"message": "No such object: b/o", "domain": "global", "reason": "notFound"}]}})"),
            "notFound");
  EXPECT_EQ(service_code_of(R"({"error":{"errors":[{"reason" : "rateLimitExceeded"}]}})"), "rateLimitExceeded");
}

TEST(ServiceCode, IsNothingElseFromTheBody) {
  for (const std::string_view body : {
           "",
           "busy",
           "<html><body><h1>502 Bad Gateway</h1></body></html>",
           R"({"error": "Repository not found"})",
           "<Code>",
           "<Code>NeverEnds",
           "</Code><Code>",
           "<Code></Code>",
           "<Code><b>SlowDown</b></Code>",
           "<Code>a&amp;b</Code>",
           "<Code>line\nbreak</Code>",
           R"({"reason")",
           R"({"reason":)",
           R"({"reason":"never ends)",
           R"({"reason": null, "message": "what was sent"})",
           R"({"reason": 5, "message": "what was sent"})",
           R"({"reason": {"message": "what was sent"}})",
           R"({"reason": "what \"was\" sent"})",
       }) {
    EXPECT_EQ(service_code_of(body), "") << body;
  }
  EXPECT_EQ(service_code_of("<Code>" + std::string(101, 'x') + "</Code>"), "");
  EXPECT_EQ(service_code_of(std::string_view("<Code>a\0b</Code>", 16)), "");
}

}  // namespace
}  // namespace weightstream
