// Opening objects over HTTP: the first bytes of many at once, huge headers, and what cannot be opened.
#include <atomic>
#include <set>
#include <span>
#include <string>
#include <thread>

#include "engine/open_sources.h"
#include "engine/remote_heads.h"
#include "http_stream_harness.h"

namespace weightstream::testing {
namespace {

using End = HttpReply::End;
using HttpHeads = HttpStream;

TEST_F(HttpHeads, ManyObjectsAreOpenedAtOnce) {
  const auto made = make_remote(Sizes(40, {3, 5000}));
  EXPECT_EQ(server_->requests().size(), 40U);
  expect_all(made);
}

// Their names alone are more than the first round brings.
TEST_F(HttpHeads, HugeHeadersTakeASecondRound) {
  const Sizes sizes(6, {3, 5000, 70'000});
  const auto made = opened(make_files(sizes, std::string(400 * kKiB, 'n')), objects(sizes.size()));
  ASSERT_NE(made.checkpoint, nullptr);
  const auto requests = server_->requests();
  ASSERT_EQ(requests.size(), 2 * sizes.size());
  std::set<std::string> second;
  for (const auto& request : requests) {
    if (request.range->begin == 0) {
      EXPECT_EQ(request.range->end, kMiB);
      continue;
    }
    EXPECT_EQ(request.range->begin, kMiB);
    EXPECT_EQ(request.header("if-match"), "\"1\"");
    second.insert(request.path);
  }
  EXPECT_EQ(second.size(), sizes.size());
  expect_all(made);
}

// Wants a large part of each object, in two steps, and checks it.
class LargeHeads final : public HeadConsumer {
 public:
  LargeHeads(std::uint64_t bytes, std::uint64_t seed) : bytes_(bytes), seed_(seed) {}
  Result<std::uint64_t> take(std::size_t /*index*/, std::span<const std::byte> bytes) override {
    EXPECT_EQ(first_wrong(bytes, seed_, 0), std::nullopt);
    if (bytes.size() >= bytes_) ++done;
    return bytes_;
  }
  std::atomic<std::size_t> done = 0;

 private:
  std::uint64_t bytes_;
  std::uint64_t seed_;
};

// Together they want more than may be in memory at a time.
TEST_F(HttpHeads, LargeHeadsWaitForEachOther) {
  constexpr std::uint64_t kBytes = 6 * kMiB;
  constexpr std::size_t kCount = 14;
  server_->put("/o", pattern_content(kBytes + 5, 3));
  std::vector<std::shared_ptr<HttpObject>> sources;
  for (std::size_t i = 0; i < kCount; ++i) sources.push_back(object("/o"));
  HttpConnections connections;
  LargeHeads heads(kBytes, 3);
  LogSink log;
  const auto read = read_heads(sources, 64 * kKiB, connections, heads, log, kNeverCancelled);
  EXPECT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(heads.done, kCount);
}

TEST_F(HttpHeads, MoreThanThereIsIsTruncated) {
  server_->put("/o", pattern_content(1000, 3));
  HttpConnections connections;
  LargeHeads heads(1001, 3);
  LogSink log;
  const auto read = read_heads({object("/o")}, 64 * kKiB, connections, heads, log, kNeverCancelled);
  ASSERT_FALSE(read.ok());
  EXPECT_EQ(read.error().code, ErrorCode::kTruncated);
  EXPECT_EQ(read.error().source, "/o");
  EXPECT_EQ(read.error().expected, 1001U);
  EXPECT_EQ(read.error().got, 1000U);
}

TEST_F(HttpHeads, SourcesOfAnyContent) {
  server_->put("/small", pattern_content(1000, 3));
  server_->put("/large", pattern_content(2 * kMiB, 4));
  server_->put("/empty", {.bytes = ""});
  LogSink log;
  const auto raw = open_sources({object("/small"), object("/large"), object("/empty")}, log, kNeverCancelled);
  ASSERT_TRUE(raw.ok()) << raw.error().message;
  EXPECT_EQ(raw->sources->at(0).size(), 1000U);
  EXPECT_EQ(raw->sources->at(1).size(), 2 * kMiB);
  EXPECT_EQ(raw->sources->at(2).size(), 0U);
  EXPECT_EQ(raw->heads[0].size(), 1000U);
  EXPECT_EQ(raw->heads[1].size(), kMiB);
  EXPECT_TRUE(raw->heads[2].empty());
  EXPECT_EQ(first_wrong(raw->heads[1], 4, 0), std::nullopt);
}

TEST_F(HttpHeads, HeadersThatCannotBeHad) {
  make_files({{5}, {5}});
  server_->put("/page", {.bytes = "<!DOCTYPE html><html>not here</html>"});
  server_->put("/empty", {.bytes = ""});
  server_->put("/cut", {.bytes = file_content(folder_ / "shard0").bytes.substr(0, 20)});
  struct Row {
    std::string path;
    ErrorCode code;
  };
  for (const auto& row : {Row{"/nothing", ErrorCode::kNotFound}, Row{"/page", ErrorCode::kFormat},
                          Row{"/empty", ErrorCode::kFormat}, Row{"/cut", ErrorCode::kFormat}}) {
    SCOPED_TRACE(row.path);
    LogSink log;
    const auto checkpoint =
        Checkpoint::open({object("/shard0"), object(row.path), object("/shard1")}, std::nullopt, log);
    ASSERT_FALSE(checkpoint.ok());
    EXPECT_EQ(checkpoint.error().code, row.code) << checkpoint.error().message;
    EXPECT_EQ(checkpoint.error().source, row.path);
  }
}

TEST_F(HttpHeads, OpeningMayBeGivenUp) {
  server_->script([](const HttpRequest&) { return HttpReply{.status = 0, .end = End::kHang}; });
  std::atomic<bool> cancelled = false;
  std::thread canceller([&] {
    EXPECT_TRUE(server_->wait_for_requests(3));
    cancelled = true;
  });
  LogSink log;
  const auto checkpoint = Checkpoint::open(objects(3), std::nullopt, log, cancelled);
  canceller.join();
  ASSERT_FALSE(checkpoint.ok());
  EXPECT_EQ(checkpoint.error().code, ErrorCode::kClosed);
}

}  // namespace
}  // namespace weightstream::testing
