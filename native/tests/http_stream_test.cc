// Streams over HTTP: every byte of the tensors, within the limit, of the version whose header was read; and their end.
#include <algorithm>
#include <string>
#include <thread>

#include "http_stream_harness.h"

namespace weightstream::testing {
namespace {

using End = HttpReply::End;

const std::vector<std::vector<std::uint64_t>> kSizes{
    {0, 300 * kKiB, 5, 4096, 700 * kKiB + 1, 0, 123'456, 1}, {}, {900 * kKiB, 0, 2 * kMiB + 77, 3, 0}};

TEST_F(HttpStream, EveryByteOfARemoteCheckpoint) {
  const auto made = make_remote(kSizes);
  EXPECT_EQ(server_->requests().size(), kSizes.size()) << "one request for each header";
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t limit : {kTinyLimit, std::uint64_t{0}}) {
      SCOPED_TRACE(std::to_string(limit) + (file_order ? " in file order" : ""));
      expect_all(made, options(limit, file_order));
    }
  }
}

TEST_F(HttpStream, AllRequestsAreForTheVersionWhoseHeaderWasRead) {
  const auto made = make_remote(kSizes);
  const auto headers = server_->requests().size();
  expect_all(made, options(kTinyLimit));
  const auto requests = server_->requests();
  ASSERT_GT(requests.size(), headers);
  for (std::size_t i = headers; i < requests.size(); ++i) EXPECT_EQ(requests[i].header("if-match"), "\"1\"");
}

TEST_F(HttpStream, LocalAndRemoteShardsOfOneCheckpoint) {
  auto files = make_files({kSizes[0], kSizes[2], kSizes[0], kSizes[2]});
  auto specs = objects(4);
  specs[1] = files[1].path;
  specs[2] = files[2].path;
  const auto made = opened(std::move(files), specs);
  ASSERT_NE(made.checkpoint, nullptr);
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t limit : {kTinyLimit, std::uint64_t{0}}) expect_all(made, options(limit, file_order));
  }
  for (const auto& request : server_->requests()) {
    EXPECT_TRUE(request.path == "/shard0" || request.path == "/shard3") << request.path;
  }
}

TEST_F(HttpStream, AMemoryLimitFarBelowTheObject) {
  const auto made = make_remote({std::vector<std::uint64_t>(60, 200 * kKiB)});
  expect_all(made, options(kTinyLimit));
}

TEST_F(HttpStream, OneTensorLargerThanTheLimit) {
  const auto made = make_remote({{5 * kMiB + 1}});
  expect_all(made, options(kTinyLimit));
}

TEST_F(HttpStream, TwoStreamsOfOneCheckpoint) {
  const auto made = make_remote(kSizes);
  std::thread other([&] { expect_all(made, options(kTinyLimit)); });
  expect_all(made, options(kTinyLimit, true));
  other.join();
}

TEST_F(HttpStream, TheDataComesOnTheConnectionsOfTheHeaders) {
  const auto made = make_remote({{kMiB}});
  auto with = options();
  with.concurrency = 1;
  expect_all(made, with);
  EXPECT_EQ(server_->connections(), 1U);
}

TEST_F(HttpStream, AnObjectThatIsReplacedAfterItsHeader) {
  const auto made = make_remote({{300 * kKiB, 900 * kKiB}});
  auto other = file_content(made.files[0].path);
  other.headers = {"ETag: \"2\""};
  server_->put("/shard0", other);
  auto stream = start(made, options(kTinyLimit));
  ASSERT_TRUE(stream.ok());
  const auto consumed = consume(**stream, made, made.items);
  ASSERT_TRUE(consumed.error.has_value());
  EXPECT_EQ(consumed.error->code, ErrorCode::kSourceChanged);
  EXPECT_EQ(consumed.error->source, "/shard0");
  EXPECT_TRUE(consumed.order.empty());
}

TEST_F(HttpStream, CloseEndsAWaitForAServerThatIsSilent) {
  const auto made = make_remote({{300 * kKiB, 900 * kKiB}});
  server_->script([](const HttpRequest&) { return HttpReply{.status = 0, .end = End::kHang}; });
  const auto headers = server_->requests().size();
  auto stream = start(made, options(kTinyLimit));
  ASSERT_TRUE(stream.ok());
  std::thread closer([&] {
    EXPECT_TRUE(server_->wait_for_requests(headers + 1));
    (*stream)->close();
  });
  const auto consumed = consume(**stream, made, made.items);
  closer.join();
  ASSERT_TRUE(consumed.error.has_value());
  EXPECT_EQ(consumed.error->code, ErrorCode::kClosed);
}

TEST_F(HttpStream, CloseAfterAnyItem) {
  const auto made = make_remote({{300 * kKiB, 5, 400 * kKiB, 0, kMiB}});
  for (std::size_t after = 0; after < made.items.size(); ++after) {
    auto stream = start(made, options(kTinyLimit));
    ASSERT_TRUE(stream.ok());
    std::size_t taken = 0;
    if (after > 0) consume(**stream, made, made.items, [&](ReadyItem&) { return ++taken < after; });
    (*stream)->close();
    (*stream)->close();
  }
  expect_all(made);
}

}  // namespace
}  // namespace weightstream::testing
