// Time and memory for headers as large as the format allows, and for headers made to be slow.
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <functional>

#include "safetensors_bytes.h"

// Sanitizers slow the parser by a factor of ten and keep freed memory: they get a tenth of the size, and no bound.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define WEIGHTSTREAM_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define WEIGHTSTREAM_SANITIZED 1
#endif
#endif
#ifndef WEIGHTSTREAM_SANITIZED
#define WEIGHTSTREAM_SANITIZED 0
#endif

namespace weightstream {
namespace {

constexpr bool kSanitized = WEIGHTSTREAM_SANITIZED == 1;
constexpr std::size_t kSize = kSanitized ? kMaxHeaderBytes / 10 : kMaxHeaderBytes;
constexpr std::size_t kMostMemory = 12 * kSize;  // bytes; all of the process, so the text itself is in it
constexpr std::chrono::seconds kMostTime{60};    // machines differ; what is quadratic would take hours

std::size_t peak_memory() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

// Parses the header of kSize bytes that `prefix`, as many items as fit, and `suffix` make.
Result<Header> parse_large(std::string_view prefix, const std::function<std::string(std::size_t)>& item,
                           std::string_view suffix, std::uint64_t data_bytes = 0) {
  HeaderBytes json(kSize);
  auto* const text = reinterpret_cast<char*>(json.data());  // NOLINT(*-reinterpret-cast)
  std::memset(text, ' ', kSize);
  std::size_t at = prefix.copy(text, prefix.size());
  for (std::size_t i = 0;; ++i) {
    const std::string next = item(i);
    if (at + next.size() + suffix.size() > kSize) break;
    at += next.copy(text + at, next.size());
  }
  suffix.copy(text + at, suffix.size());

  const auto start = std::chrono::steady_clock::now();
  auto header = parse_header(json, 8 + kSize + data_bytes);
  EXPECT_LT(std::chrono::steady_clock::now() - start, kMostTime);
  if (!kSanitized) {
    EXPECT_LT(peak_memory(), kMostMemory);
  }
  return header;
}

std::string comma(std::size_t i) { return i == 0 ? "" : ","; }

TEST(LargeHeader, OfTensorsIsAccepted) {
  const auto item = [](std::size_t i) {
    return comma(i) + "\"layer." + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  };
  const auto header = parse_large("{", item, "}");
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_GT(header->size(), kSize / 100);
}

TEST(LargeHeader, OfOneDuplicateIsRejected) {
  const auto item = [](std::size_t i) {
    return comma(i) + "\"" + std::to_string(i / 2 * 2) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  };
  const auto header = parse_large("{", item, "}");
  ASSERT_FALSE(header.ok());
  EXPECT_TRUE(header.error().message.ends_with(" occurs twice in the header")) << header.error().message;
}

TEST(LargeHeader, OfMillionsOfBadEntriesIsRejected) {
  const auto header = parse_large("{", [](std::size_t i) { return comma(i) + "\"" + std::to_string(i) + "\":1"; }, "}");
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.error().message, "the entry of '0' is 1; an object with dtype, shape and data_offsets is expected");
}

TEST(LargeHeader, OfMetadataIsAccepted) {
  const auto item = [](std::size_t i) { return comma(i) + "\"" + std::to_string(i) + "\":\"\""; };
  const auto header = parse_large(R"({"__metadata__":{)", item, "}}");
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_GT(header->metadata().size(), kSize / 20);
}

TEST(LargeHeader, OfUnknownKeysIsAccepted) {
  const auto item = [](std::size_t i) { return comma(i) + "\"" + std::to_string(i) + "\":0"; };
  const auto header = parse_large(R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"x":{)", item, "}}}");
  ASSERT_TRUE(header.ok()) << header.error().message;
}

TEST(LargeHeader, OfDimensionsIsAccepted) {
  const auto item = [](std::size_t i) { return comma(i) + "1"; };
  const auto header = parse_large(R"({"w":{"dtype":"U8","data_offsets":[0,1],"shape":[)", item, "]}}", 1);
  ASSERT_TRUE(header.ok()) << header.error().message;
  EXPECT_GT(header->shape(0).size(), kSize / 3);
}

TEST(LargeHeader, OfOpenBracketsIsRejected) {
  const auto header = parse_large(R"({"w":{"x":)", [](std::size_t) { return std::string("["); }, "}}");
  ASSERT_FALSE(header.ok());
  EXPECT_EQ(header.error().message, "the header nests deeper than 127 levels");
}

TEST(LargeHeader, OfOneNameIsAcceptedAndNotRepeatedInErrors) {
  const auto item = [](std::size_t) { return std::string(1000, 'n'); };
  const auto header = parse_large("{\"", item, R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})");
  ASSERT_TRUE(header.ok()) << header.error().message;
  const auto wrong = parse_large("{\"", item, R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,0]}})");
  ASSERT_FALSE(wrong.ok());
  EXPECT_LT(wrong.error().message.size(), 300U);
}

}  // namespace
}  // namespace weightstream
