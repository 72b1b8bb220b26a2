// Where a response begins and ends: byte literals, good and bad, in pieces of any size.
#include "storage/http_framing.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace weightstream {
namespace {

using Part = HttpFraming::Part;

struct Read {
  Part part = Part::kHead;
  int status = 0;
  std::string body;
  std::string defect;
  std::size_t left = 0;  // bytes after the end of the response
  bool reusable = false;
};

// Takes `bytes` as they come from a connection, `piece` at a time, and then the connection's end.
Read read(std::string_view bytes, std::size_t piece, bool ends = false) {
  HttpFraming framing;
  Read result;
  std::size_t at = 0;
  while (at < bytes.size() && (framing.part() == Part::kHead || framing.part() == Part::kBody)) {
    const auto came = bytes.substr(at, piece);
    const auto run = static_cast<std::size_t>(std::min<std::uint64_t>(framing.run(), came.size()));
    if (run > 0) {
      result.body += came.substr(0, run);
      framing.took(run);
      at += run;
    } else {
      const auto taken = framing.frame(came);
      EXPECT_LE(taken, came.size());
      EXPECT_GT(taken + framing.run() + static_cast<std::size_t>(framing.part()), 0U) << "it stands still";
      at += taken;
    }
  }
  if (ends) framing.connection_ended();
  result.part = framing.part();
  result.status = framing.head().status;
  result.defect = framing.defect();
  result.left = bytes.size() - at;
  result.reusable = framing.reusable();
  return result;
}

void expect_whole(std::string_view bytes, std::string_view body, bool reusable = true, bool ends = false) {
  SCOPED_TRACE(bytes.substr(0, 200));
  for (const std::size_t piece : {std::size_t{1}, std::size_t{2}, std::size_t{3}, std::size_t{7}, bytes.size()}) {
    SCOPED_TRACE(piece);
    const auto got = read(bytes, piece, ends);
    EXPECT_EQ(got.part, Part::kEnd) << got.defect;
    EXPECT_EQ(got.body, body);
    EXPECT_EQ(got.left, 0U);
    EXPECT_EQ(got.reusable, reusable);
  }
}

void expect_broken(std::string_view bytes, std::string_view words) {
  SCOPED_TRACE(bytes.substr(0, 200));
  for (const std::size_t piece : {std::size_t{1}, std::size_t{5}, bytes.size()}) {
    const auto got = read(bytes, piece);
    EXPECT_EQ(got.part, Part::kBroken);
    EXPECT_NE(got.defect.find(words), std::string::npos) << got.defect;
    EXPECT_FALSE(got.reusable);
  }
}

TEST(HttpFraming, ABodyByItsLength) {
  expect_whole("HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", "hello");
  expect_whole("HTTP/1.1 206\r\ncontent-length:5\r\n\r\nhello", "hello");
  expect_whole("HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", "hi");
  expect_whole("HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n", "");
  expect_whole("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi", "hi");
}

TEST(HttpFraming, WhatNeverHasABody) {
  expect_whole("HTTP/1.1 204 No Content\r\n\r\n", "");
  expect_whole("HTTP/1.1 304 Not Modified\r\nContent-Length: 100\r\n\r\n", "");
}

TEST(HttpFraming, ABodyInChunks) {
  const std::string head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  expect_whole(head + "5\r\nhello\r\n0\r\n\r\n", "hello");
  expect_whole(head + "0\r\n\r\n", "");
  expect_whole(head + "2\r\nhe\r\n3;name=value\r\nllo\r\n00000\r\nTrailer: x\r\nOther: y\r\n\r\n", "hello");
  expect_whole(head + "A \r\n0123456789\r\n1\r\na\r\n0\r\n\r\n", "0123456789a");
  // Its Content-Length means nothing then.
  expect_whole("HTTP/1.1 200 OK\r\nContent-Length: 100\r\nTransfer-Encoding: Chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "x");
}

TEST(HttpFraming, ABodyToTheEndOfTheConnection) {
  expect_whole("HTTP/1.1 200 OK\r\n\r\nhello", "hello", false, true);
  expect_whole("HTTP/1.1 200 OK\r\n\r\n", "", false, true);
}

TEST(HttpFraming, AnEndThatComesTooSoonIsNoEnd) {
  for (const std::string_view bytes : {
           "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhell",
           "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
       }) {
    EXPECT_EQ(read(bytes, 3, true).part, Part::kBody) << bytes;
  }
  for (const std::string_view bytes : {"", "HTT", "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n"}) {
    EXPECT_EQ(read(bytes, 3, true).part, Part::kHead) << bytes;
  }
}

TEST(HttpFraming, WhatFollowsTheEndIsLeft) {
  const auto got = read("HTTP/1.1 206 Partial Content\r\nContent-Length: 2\r\n\r\nhiHTTP/1.1", 1000);
  EXPECT_EQ(got.body, "hi");
  EXPECT_EQ(got.left, 8U);
}

TEST(HttpFraming, InterimAnswersComeBefore) {
  expect_whole(
      "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
      "hi");
}

TEST(HttpFraming, WhetherTheConnectionStays) {
  const auto stays = [](std::string_view first, std::string_view header) {
    return read(std::string(first) + "\r\n" + std::string(header) + "Content-Length: 0\r\n\r\n", 100).reusable;
  };
  EXPECT_TRUE(stays("HTTP/1.1 200 OK", ""));
  EXPECT_FALSE(stays("HTTP/1.1 200 OK", "Connection: close\r\n"));
  EXPECT_FALSE(stays("HTTP/1.1 200 OK", "connection: Close\r\n"));
  EXPECT_FALSE(stays("HTTP/1.0 200 OK", ""));
  EXPECT_TRUE(stays("HTTP/1.0 200 OK", "Connection: Keep-Alive\r\n"));
}

TEST(HttpFraming, WhatIsNoAnswer) {
  for (const std::string_view bytes :
       {"SSH-2.0-OpenSSH\r\n", "\x16\x03\x01", "<html>", "\r\n", "HTTP/2 200\r\n", "http/1.1 200"}) {
    expect_broken(bytes, "does not begin");
  }
  for (const std::string_view bytes :
       {"HTTP/1.1\r\n", "HTTP/1.1 20\r\n", "HTTP/1.1 2000\r\n", "HTTP/1.1 OK\r\n", "HTTP/1.1 012\r\n",
        "HTTP/1.x 200\r\n", "HTTP/1.1  200\r\n", "HTTP/1.11 200\r\n"}) {
    expect_broken(bytes, "no status line");
  }
  expect_broken("HTTP/1.1 101 Switching Protocols\r\n\r\n", "changed the protocol");
}

TEST(HttpFraming, LinesThatAreNoHeaders) {
  const std::string status = "HTTP/1.1 206 Partial Content\r\n";
  for (const std::string_view line : {"no colon", ": no name", " Content-Length: 5", "\tfolded", "HTTP/1.1 200 a:b"}) {
    expect_broken(status + std::string(line) + "\r\n\r\n", "no header");
  }
  expect_broken(status + std::string("X: a\0b\r\n", 8), "control character");
  expect_broken(status + "ETag: \"1\rX-Evil: yes\"\r\n", "control character");
}

TEST(HttpFraming, LengthsThatAreUnclear) {
  const std::string status = "HTTP/1.1 206 Partial Content\r\n";
  for (const std::string_view value : {"", "-1", "+5", "5, 5", "0x5", "5 5", "99999999999999999999999", "five"}) {
    expect_broken(status + "Content-Length: " + std::string(value) + "\r\n\r\n", "unclear");
  }
  expect_broken(status + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", "unclear");
  for (const std::string_view coding : {"gzip", "gzip, chunked", "chunked, chunked", "chunkedx", "identity"}) {
    expect_broken(status + "Transfer-Encoding: " + std::string(coding) + "\r\n\r\n", "nobody asked for");
  }
}

TEST(HttpFraming, ChunksThatCannotBeRead) {
  const std::string head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string_view size : {"", "x", "-1", "0x5", "5x", "11111111111111111"}) {
    expect_broken(head + std::string(size) + "\r\n", "size of a chunk");
  }
  expect_broken(head + "2\r\nhello\r\n", "longer than its size");
}

TEST(HttpFraming, HeadsAreBounded) {
  const std::string status = "HTTP/1.1 206 Partial Content\r\n";
  const std::string line = "X: " + std::string(1000, 'x') + "\r\n";
  const auto many = [](const std::string& text, int times) {
    std::string all;
    for (int i = 0; i < times; ++i) all += text;
    return all;
  };
  expect_whole(status + many(line, 60) + "Content-Length: 0\r\n\r\n", "");
  for (const std::string& bytes :
       {status + many(line, 70), status + std::string(70 << 10, 'x'), many("HTTP/1.1 100 Continue\r\n\r\n", 4000)}) {
    EXPECT_EQ(read(bytes, 4096).part, Part::kBroken);
    EXPECT_NE(read(bytes, 4096).defect.find("64 KiB"), std::string::npos);
  }
  const std::string chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(read(chunked + "0\r\n" + many(line, 70), 4096).part, Part::kBroken);
  EXPECT_EQ(read(chunked + "5;" + std::string(70 << 10, 'x'), 4096).part, Part::kBroken);
}

}  // namespace
}  // namespace weightstream
