// The text of a request, word for word.
#include "storage/http_request.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weightstream {
namespace {

std::string request(const std::string& url, const std::vector<std::string>& headers = {},
                    const std::string& if_match = {}) {
  const std::string agent = "weightstream/1";
  return http_request({.url = url, .range = {10, 20}, .if_match = if_match, .headers = &headers, .user_agent = agent});
}

void expect_line(const std::string& text, const std::string& line) {
  EXPECT_NE(text.find("\r\n" + line + "\r\n"), std::string::npos) << text;
}

TEST(HttpRequest, IsAGetOfARange) {
  EXPECT_EQ(request("http://host/a/b.safetensors?x=1&y=%20#there", {"Authorization: Bearer t"}, "\"e\""),
            "GET /a/b.safetensors?x=1&y=%20 HTTP/1.1\r\n"
            "Host: host\r\n"
            "User-Agent: weightstream/1\r\n"
            "Accept: */*\r\n"
            "Accept-Encoding: identity\r\n"
            "Range: bytes=10-19\r\n"
            "If-Match: \"e\"\r\n"
            "Authorization: Bearer t\r\n"
            "\r\n");
}

TEST(HttpRequest, WithoutHeadersOrAVersion) {
  const std::string url = "https://host";
  const std::string none;
  const auto text =
      http_request({.url = url, .range = {0, 1}, .if_match = none, .headers = nullptr, .user_agent = none});
  EXPECT_TRUE(text.starts_with("GET / HTTP/1.1\r\n")) << text;
  expect_line(text, "Range: bytes=0-0");
  EXPECT_EQ(text.find("If-Match"), std::string::npos);
  EXPECT_EQ(text.find("Authorization"), std::string::npos);
  EXPECT_TRUE(text.ends_with("\r\n\r\n"));
}

TEST(HttpRequest, TheHostHasAPortWhereItNeedsOne) {
  expect_line(request("http://host:80/"), "Host: host");
  expect_line(request("https://host:443/"), "Host: host");
  expect_line(request("https://host:80/"), "Host: host:80");
  expect_line(request("http://127.0.0.1:9000/"), "Host: 127.0.0.1:9000");
  expect_line(request("http://[::1]:9000/"), "Host: [::1]:9000");
}

// RFC 7617, section 2.
TEST(HttpRequest, UserinfoIsBasicAuthorization) {
  expect_line(request("https://Aladdin:open%20sesame@host/"), "Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
  expect_line(request("https://a@host/"), "Authorization: Basic YTo=");
  expect_line(request("https://ab:c@host/"), "Authorization: Basic YWI6Yw==");
  expect_line(request("https://ab:cd@host/"), "Authorization: Basic YWI6Y2Q=");
  expect_line(request("https://ab:%c3%bf@host/"), "Authorization: Basic YWI6w78=");
  const auto text = request("https://a:b@host/", {"authorization: mine"});
  expect_line(text, "authorization: mine");
  EXPECT_EQ(text.find("Basic"), std::string::npos);
  EXPECT_EQ(text.find("a:b@"), std::string::npos);
}

TEST(HttpRequest, GivenHeadersReplaceOurs) {
  const auto text = request("https://host/", {"User-agent: other", "ACCEPT: bytes"});
  expect_line(text, "User-agent: other");
  expect_line(text, "ACCEPT: bytes");
  EXPECT_EQ(text.find("weightstream"), std::string::npos);
  EXPECT_EQ(text.find("*/*"), std::string::npos);
  expect_line(text, "Accept-Encoding: identity");
}

}  // namespace
}  // namespace weightstream
