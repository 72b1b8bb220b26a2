// Fail the k-th operation of a load over HTTP, for k = 0, 1, ... until a run is clean: all bytes or a typed error, and
// nothing left behind.
#include <optional>
#include <string>
#include <utility>

#include "http_stream_harness.h"

namespace weightstream::testing {
namespace {

using End = HttpReply::End;

enum class StreamFault { kConnectionReset, kBodyReset, kBodyEnds, kBusy, kNotFound };

class HttpStreamFaults : public HttpStream, public ::testing::WithParamInterface<StreamFault> {
 protected:
  HttpStreamFaults() {
    const auto threads = count_threads();
    expect_all(opened(files_, objects(files_.size())), options(kTinyLimit));  // sets up what a process sets up once
    EXPECT_TRUE(server_->wait_until_idle());
    EXPECT_TRUE(eventually([&] { return count_threads() <= threads; }));
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
          return reply(503, {"Retry-After: 0"});
        default:
          return reply(404);
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
    EXPECT_TRUE(eventually([&] { return count_threads() <= threads_; }))
        << count_threads() << " threads, there were " << threads_;
    EXPECT_TRUE(eventually([&] { return count_descriptors() <= descriptors_; }))
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
}  // namespace weightstream::testing
