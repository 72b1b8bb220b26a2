// Checkpoints and streams over HTTP: headers of many objects at once, every byte of their tensors, faults on the way,
// and nothing left behind.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <span>
#include <string>
#include <thread>

#include "engine/open_sources.h"
#include "engine/remote_heads.h"
#include "engine/stream.h"
#include "http_test_server.h"
#include "process_state.h"
#include "stream_harness.h"

namespace weightstream {
namespace {

using testing::consume;
using testing::count_descriptors;
using testing::count_threads;
using testing::eventually;
using testing::HttpReply;
using testing::HttpRequest;
using testing::HttpTestServer;
using testing::kKiB;
using testing::kMiB;
using testing::kTinyLimit;
using testing::MadeFile;
using testing::start;
using testing::TempDir;
using testing::TestCheckpoint;
using End = testing::HttpReply::End;
using Sizes = std::vector<std::vector<std::uint64_t>>;

const Sizes kSizes{{0, 300 * kKiB, 5, 4096, 700 * kKiB + 1, 0, 123'456, 1}, {}, {900 * kKiB, 0, 2 * kMiB + 77, 3, 0}};

class HttpStream : public ::testing::Test {
 protected:
  // The files are on the server too: file i at "/shard<i>".
  std::vector<MadeFile> make_files(const Sizes& sizes, const std::string& prefix = "shard") {
    std::vector<MadeFile> files;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      const std::string number = std::to_string(i);
      files.push_back(testing::write_checkpoint(folder_ / ("shard" + number), sizes[i], i + 1, prefix + number + "."));
      server_->put("/shard" + number, testing::file_content(files.back().path));
    }
    return files;
  }
  std::shared_ptr<HttpObject> object(const std::string& path) {
    HttpOptions options;
    options.policy.backoff = 0.001;
    options.policy.backoff_cap = 0.02;
    options.policy.stall_seconds = 3600;
    options.policy.hedge_seconds = 0;
    auto made = HttpObject::make(path, {.url = server_->url(path), .headers = {}, .expires_at = {}}, std::nullopt, "",
                                 options, nullptr, hosts_);
    EXPECT_TRUE(made.ok());
    return *made;
  }
  std::vector<SourceSpec> objects(std::size_t count) {
    std::vector<SourceSpec> specs;
    for (std::size_t i = 0; i < count; ++i) specs.emplace_back(object("/shard" + std::to_string(i)));
    return specs;
  }
  static TestCheckpoint opened(std::vector<MadeFile> files, const std::vector<SourceSpec>& specs) {
    LogSink log;
    auto checkpoint = Checkpoint::open(specs, std::nullopt, log);
    if (!checkpoint.ok()) {
      ADD_FAILURE() << checkpoint.error().message;
      return {};
    }
    TestCheckpoint made{.files = std::move(files), .checkpoint = std::move(checkpoint).value(), .items = {}};
    for (const auto ref : made.checkpoint->tensors()) {
      made.items.push_back({ref.source, made.checkpoint->header(ref).range(ref.entry)});
    }
    return made;
  }
  TestCheckpoint make_remote(const Sizes& sizes) { return opened(make_files(sizes), objects(sizes.size())); }

  static StreamOptions options(std::uint64_t memory_limit = 0, bool file_order = false) {
    StreamOptions made;
    made.memory_limit = memory_limit;
    made.file_order = file_order;
    return made;
  }
  static void expect_all(const TestCheckpoint& made, const StreamOptions& with = options()) {
    auto stream = start(made, with);
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    const auto consumed = consume(**stream, made, made.items);
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "");
    EXPECT_EQ(consumed.order.size(), made.items.size());
    if (with.file_order) {
      EXPECT_TRUE(std::is_sorted(consumed.order.begin(), consumed.order.end()));
    }
    if (with.memory_limit > 0) {
      EXPECT_LE((*stream)->stats().peak_host_bytes, std::max(with.memory_limit, made.largest_span(256 * kKiB)));
    }
  }

  testing::Watchdog watchdog_;
  TempDir folder_;
  std::unique_ptr<HttpTestServer> server_ = HttpTestServer::make();
  HttpHosts hosts_;
};

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

TEST_F(HttpStream, ManyObjectsAreOpenedAtOnce) {
  const auto made = make_remote(Sizes(40, {3, 5000}));
  EXPECT_EQ(server_->requests().size(), 40U);
  expect_all(made);
}

// Their names alone are more than the first round brings.
TEST_F(HttpStream, HugeHeadersTakeASecondRound) {
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
    EXPECT_EQ(testing::first_wrong(bytes, seed_, 0), std::nullopt);
    if (bytes.size() >= bytes_) ++done;
    return bytes_;
  }
  std::atomic<std::size_t> done = 0;

 private:
  std::uint64_t bytes_;
  std::uint64_t seed_;
};

// Together they want more than may be in memory at a time.
TEST_F(HttpStream, LargeHeadsWaitForEachOther) {
  constexpr std::uint64_t kBytes = 6 * kMiB;
  constexpr std::size_t kCount = 14;
  server_->put("/o", testing::pattern_content(kBytes + 5, 3));
  std::vector<std::shared_ptr<HttpObject>> sources;
  for (std::size_t i = 0; i < kCount; ++i) sources.push_back(object("/o"));
  HttpConnections connections;
  LargeHeads heads(kBytes, 3);
  LogSink log;
  const auto read = read_heads(sources, 64 * kKiB, connections, heads, log, kNeverCancelled);
  EXPECT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(heads.done, kCount);
}

TEST_F(HttpStream, MoreThanThereIsIsTruncated) {
  server_->put("/o", testing::pattern_content(1000, 3));
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

TEST_F(HttpStream, SourcesOfAnyContent) {
  server_->put("/small", testing::pattern_content(1000, 3));
  server_->put("/large", testing::pattern_content(2 * kMiB, 4));
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
  EXPECT_EQ(testing::first_wrong(raw->heads[1], 4, 0), std::nullopt);
}

TEST_F(HttpStream, HeadersThatCannotBeHad) {
  make_files({{5}, {5}});
  server_->put("/page", {.bytes = "<!DOCTYPE html><html>not here</html>"});
  server_->put("/empty", {.bytes = ""});
  server_->put("/cut", {.bytes = testing::file_content(folder_ / "shard0").bytes.substr(0, 20)});
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

TEST_F(HttpStream, OpeningMayBeGivenUp) {
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

TEST_F(HttpStream, AnObjectThatIsReplacedAfterItsHeader) {
  const auto made = make_remote({{300 * kKiB, 900 * kKiB}});
  auto other = testing::file_content(made.files[0].path);
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

enum class StreamFault { kConnectionReset, kBodyReset, kBodyEnds, kBusy, kNotFound };

class HttpStreamFaults : public HttpStream, public ::testing::WithParamInterface<StreamFault> {
 protected:
  HttpStreamFaults() {
    const auto threads = count_threads();
    expect_all(opened(files_, objects(files_.size())), options(kTinyLimit));  // sets up what a process sets up once
    EXPECT_TRUE(server_->wait_until_idle());
    EXPECT_TRUE(eventually([&] { return count_threads() == threads; }));
    threads_ = threads;
    descriptors_ = count_descriptors();
  }

  // Opens and streams everything while the k-th operation fails; whether it did.
  bool run_once(std::size_t k) {
    watchdog_.begin("operation " + std::to_string(k));
    server_->forget();
    bool happened = false;  // under the server's lock until it is idle
    server_->door([&, k](std::size_t number) {
      if (GetParam() != StreamFault::kConnectionReset || number != k) return true;
      happened = true;
      return false;
    });
    server_->script([&, k](const HttpRequest& request) -> std::optional<HttpReply> {
      if (GetParam() == StreamFault::kConnectionReset || request.number != k) return std::nullopt;
      happened = true;
      auto right = server_->right_answer(request);
      switch (GetParam()) {
        case StreamFault::kBodyReset:
          return right.cut(right.body.size() / 2, End::kReset);
        case StreamFault::kBodyEnds:
          return right.cut(right.body.size() - 1, End::kFin);
        case StreamFault::kBusy:
          return testing::reply(503, {"Retry-After: 0"});
        default:
          return testing::reply(404);
      }
    });
    load();
    expect_nothing_left_behind();
    return happened;
  }
  void load() {
    LogSink log;
    const auto checkpoint = Checkpoint::open(objects(files_.size()), std::nullopt, log);
    if (GetParam() == StreamFault::kNotFound && !checkpoint.ok()) {
      EXPECT_EQ(checkpoint.error().code, ErrorCode::kNotFound);
      return;
    }
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    TestCheckpoint made{.files = files_, .checkpoint = *checkpoint, .items = {}};
    for (const auto ref : (*checkpoint)->tensors()) {
      made.items.push_back({ref.source, (*checkpoint)->header(ref).range(ref.entry)});
    }
    auto stream = start(made, options(kTinyLimit));
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    const auto consumed = consume(**stream, made, made.items);
    if (GetParam() == StreamFault::kNotFound && !consumed.ended) {
      ASSERT_TRUE(consumed.error.has_value());
      EXPECT_EQ(consumed.error->code, ErrorCode::kNotFound);
      EXPECT_EQ(consumed.error->http_status, 404);
      EXPECT_TRUE(consumed.error->range.has_value());
      return;
    }
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "");
    EXPECT_EQ(consumed.order.size(), made.items.size());
  }
  void expect_nothing_left_behind() {
    EXPECT_TRUE(server_->wait_until_idle());
    EXPECT_TRUE(eventually([&] { return count_threads() == threads_; }))
        << count_threads() << " threads, there were " << threads_;
    EXPECT_TRUE(eventually([&] { return count_descriptors() == descriptors_; }))
        << count_descriptors() << " descriptors, there were " << descriptors_;
  }

  const std::vector<MadeFile> files_ = make_files({{300 * kKiB, 0, 5, 600 * kKiB}, {700 * kKiB}});
  std::size_t threads_ = 0;
  std::size_t descriptors_ = 0;
};

std::string name(StreamFault fault) {
  const char* const names[] = {"ConnectionReset", "BodyReset", "BodyEnds", "Busy", "NotFound"};
  return names[static_cast<std::size_t>(fault)];
}

INSTANTIATE_TEST_SUITE_P(All, HttpStreamFaults,
                         ::testing::Values(StreamFault::kConnectionReset, StreamFault::kBodyReset,
                                           StreamFault::kBodyEnds, StreamFault::kBusy, StreamFault::kNotFound),
                         [](const auto& test) { return name(test.param); });

TEST_P(HttpStreamFaults, FailTheKthOperation) {
  std::size_t k = 0;
  while (run_once(k)) {
    if (HasFailure()) return;
    ASSERT_LT(++k, 200U) << "no run is ever clean";
  }
  EXPECT_GE(k, 1U) << "it never happened";
}

}  // namespace
}  // namespace weightstream
