// The k-th allocation of a reactor fails, alone or with all after it, for k = 1, 2, ... until a run is clean: every
// read has its bytes or says that memory is short, nothing is left behind, and the next load works.
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "http_harness.h"
#include "test_files.h"

namespace {

// Whether this thread is a reactor, doing its own work.
thread_local bool counted = false;
std::atomic<std::uint64_t> allocations = 0;
std::atomic<std::uint64_t> first_to_fail = 0;  // counted from 1; 0: none
std::atomic<std::uint64_t> last_to_fail = 0;

void* allocate(std::size_t size) {
  if (counted) {
    const auto number = ++allocations;
    if (number >= first_to_fail && number <= last_to_fail) return nullptr;
  }
  return std::malloc(size > 0 ? size : 1);
}

void* allocate_or_throw(std::size_t size) {
  if (void* memory = allocate(size)) return memory;
  throw std::bad_alloc();
}

// Where it is inlined, GCC takes what operator new gave for something that must not be freed.
[[gnu::noinline]] void release(void* memory) noexcept { std::free(memory); }

}  // namespace

void* operator new(std::size_t size) { return allocate_or_throw(size); }
void* operator new[](std::size_t size) { return allocate_or_throw(size); }
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return allocate(size); }
void operator delete(void* memory) noexcept { release(memory); }
void operator delete[](void* memory) noexcept { release(memory); }
void operator delete(void* memory, std::size_t) noexcept { release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { release(memory); }

namespace weightstream {
namespace {

using testing::connections;
using testing::count_descriptors;
using testing::eventually;
using testing::first_wrong;
using testing::HttpReply;
using testing::HttpRequest;
using testing::quick;
using testing::reply;
using testing::ScriptedFeed;

// Tells a reactor's thread by its first pull. What the feed itself allocates does not count.
class CountingFeed final : public ReadFeed {
 public:
  explicit CountingFeed(ReadFeed& feed) : feed_(feed) {}

  std::optional<ReadRequest> pull() override {
    counted = false;
    auto request = feed_.pull();
    counted = true;
    return request;
  }
  void complete(const ReadRequest& request, Result<ReadEffort> result) override {
    counted = false;
    feed_.complete(request, std::move(result));
    counted = true;
  }

 private:
  ReadFeed& feed_;
};

enum class Meets { kRightAnswers, kABrokenBody, kABusyServer, kARedirect, kNewCredentials, kASecondConnection };
enum class Fails { kOne, kAllFromOne };

class HttpMemory : public testing::HttpReaderTest, public ::testing::WithParamInterface<std::tuple<Meets, Fails>> {
 protected:
  // As many allocations as for a large object, and most of the time is the sanitizers' and the kernel's for its memory.
  static constexpr std::uint64_t kBytes = 200'000;
  static constexpr std::uint64_t kHalf = kBytes / 2 + 1;
  static constexpr std::uint64_t kThirteenth = kBytes / 13 + 1;  // a hedge needs eight that are done before it

  HttpMemory() {
    for (const char* path : {"/o", "/elsewhere"}) server_->put(path, testing::pattern_content(kBytes, kSeed));
    expect_a_right_load();  // what is set up once in a process is there from now on
    connections_.close_idle();
    EXPECT_TRUE(server_->wait_until_idle());
    descriptors_ = count_descriptors();
  }

  static Meets meets() { return std::get<0>(GetParam()); }
  static bool all() { return std::get<1>(GetParam()) == Fails::kAllFromOne; }

  std::shared_ptr<HttpObject> small(HttpPolicy policy) {
    return object({.url = server_->url("/o"), .headers = {"Token: old"}, .expires_at = {}}, policy, kBytes, "\"1\"");
  }

  void expect_a_right_load() {
    const auto source = small(quick());
    ScriptedFeed feed(*source, kBytes, kHalf);
    run(feed);
    for (const auto& error : feed.errors()) ADD_FAILURE() << error.message;
    EXPECT_EQ(first_wrong(feed.bytes(), kSeed, 0), std::nullopt);
  }

  testing::HttpTestServer::Script script() {
    switch (meets()) {
      case Meets::kRightAnswers:
        return nullptr;
      case Meets::kABrokenBody:
        return [this](const HttpRequest& request) -> std::optional<HttpReply> {
          if (request.number > 0) return std::nullopt;
          return server_->right_answer(request).cut(1000, HttpReply::End::kReset);
        };
      case Meets::kABusyServer:
        return [](const HttpRequest& request) -> std::optional<HttpReply> {
          if (request.number > 0) return std::nullopt;
          return reply(503, {"Retry-After: 0"}, "<Code>SlowDown</Code>");
        };
      case Meets::kARedirect:
        return [this](const HttpRequest& request) -> std::optional<HttpReply> {
          if (request.path != "/o") return std::nullopt;
          return reply(302, {"Location: " + server_->url("/elsewhere")});
        };
      case Meets::kNewCredentials:
        return [](const HttpRequest& request) -> std::optional<HttpReply> {
          if (request.header("token") == "new") return std::nullopt;
          return reply(403, {}, "<Code>ExpiredToken</Code>");
        };
      case Meets::kASecondConnection:  // for the last range: by then there is a median to be an outlier of
        return [this](const HttpRequest& request) -> std::optional<HttpReply> {
          if (request.range->end != kBytes || std::exchange(hung_, true)) return std::nullopt;
          return server_->right_answer(request).cut(10, HttpReply::End::kHang);
        };
    }
    return nullptr;
  }

  // One load, in which the k-th allocation fails, or all from it on; whether there was a k-th.
  bool run_once(std::uint64_t k) {
    SCOPED_TRACE("allocation " + std::to_string(k) + (all() ? " and all after it" : ""));
    watchdog_.begin("allocation " + std::to_string(k));
    server_->forget();
    server_->script(script());
    hung_ = false;
    auto policy = quick();
    const bool hedges = meets() == Meets::kASecondConnection;
    if (hedges) policy.hedge_seconds = 0.001;
    renewals_ = meets() == Meets::kNewCredentials ? std::make_shared<Renewals>() : nullptr;
    const auto source = small(policy);
    ScriptedFeed feed(*source, kBytes, hedges ? kThirteenth : kHalf);
    CountingFeed counting(feed);
    auto reader = make_http_reader(connections(1), connections_, nullptr, log_);
    allocations = 0;
    last_to_fail = all() ? UINT64_MAX : k;
    first_to_fail = k;
    const bool started = reader->start(counting).ok();
    EXPECT_TRUE(started);
    if (renewals_) renew(feed);
    EXPECT_TRUE(feed.wait_for_reports(feed.size()));
    reader.reset();
    first_to_fail = last_to_fail = 0;
    const bool happened = allocations >= k;

    connections_.close_idle();
    EXPECT_TRUE(server_->wait_until_idle());
    EXPECT_TRUE(eventually([&] { return count_descriptors() <= descriptors_; })) << count_descriptors();
    EXPECT_LE(feed.errors().size(), happened ? feed.size() : 0U);
    for (std::size_t i = 0; i < feed.size(); ++i) {
      const auto& request = feed.request(i);
      if (const auto error = feed.error(i)) {
        EXPECT_EQ(error->code, ErrorCode::kStorage) << error->message;
        EXPECT_EQ(error->system_errno, ENOMEM) << error->message;
        EXPECT_NE(error->message.find("out of memory"), std::string::npos) << error->message;
      } else {
        EXPECT_EQ(first_wrong({request.into, request.wanted}, kSeed, request.offset), std::nullopt);
      }
    }
    server_->script(nullptr);
    renewals_ = nullptr;
    expect_a_right_load();  // the next load works
    return happened;
  }

  // New access for whoever asks, until all is reported.
  void renew(ScriptedFeed& feed) {
    while (feed.reported() < feed.size()) {
      const auto asks = renewals_->next(std::chrono::milliseconds(1));
      if (asks) asks->renew({.url = server_->url("/o"), .headers = {"Token: new"}, .expires_at = {}});
    }
  }

  std::size_t descriptors_ = 0;
  bool hung_ = false;  // under the server's lock
};

TEST_P(HttpMemory, FailTheKthAllocation) {
  std::uint64_t k = 1;
  if (meets() == Meets::kASecondConnection) {  // a quarter of a second each: only those of the last range
    EXPECT_FALSE(run_once(UINT64_MAX));
    k = allocations - 50;
  }
  while (run_once(k)) {
    if (HasFailure()) return;
    ASSERT_LT(++k, 2000U) << "no run is ever clean";
  }
  EXPECT_GT(k, 10U) << "hardly anything was allocated";
}

std::string name(const ::testing::TestParamInfo<std::tuple<Meets, Fails>>& test) {
  const char* const meets[] = {"RightAnswers", "ABrokenBody",    "ABusyServer",
                               "ARedirect",    "NewCredentials", "ASecondConnection"};
  return std::string(meets[static_cast<std::size_t>(std::get<0>(test.param))]) +
         (std::get<1>(test.param) == Fails::kOne ? "_One" : "_AllFromOne");
}

INSTANTIATE_TEST_SUITE_P(All, HttpMemory,
                         ::testing::Combine(::testing::Values(Meets::kRightAnswers, Meets::kABrokenBody,
                                                              Meets::kABusyServer, Meets::kARedirect,
                                                              Meets::kNewCredentials, Meets::kASecondConnection),
                                            ::testing::Values(Fails::kOne, Fails::kAllFromOne)),
                         name);

}  // namespace
}  // namespace weightstream
