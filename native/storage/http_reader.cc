#include "storage/http_reader.h"

#include <algorithm>
#include <list>
#include <thread>
#include <utility>

#include "storage/http_reactor.h"

namespace weightstream {
namespace {

constexpr std::uint32_t kLeastThreads = 8;
constexpr std::uint32_t kMostThreads = 16;
// Below this many reads the ramp has hardly begun: nothing was learned.
constexpr std::uint32_t kWorthRemembering = 16;

// One for each core, and eight where there are fewer: each stands still while the kernel clears the memory that it
// touches first, and shares the cores with whoever sends. On two cores eight threads were a quarter faster than two.
std::uint32_t default_threads() { return std::clamp(std::thread::hardware_concurrency(), kLeastThreads, kMostThreads); }

class HttpReader final : public Reader {
 public:
  HttpReader(HttpReaderOptions options, HttpConnections& connections, HttpHost* host, LogSink& log)
      : host_(host),
        state_(options.start_concurrency, options.most_concurrency,
               std::clamp(options.threads > 0 ? options.threads : default_threads(), 1U,
                          std::max(options.most_concurrency, 1U)),
               log) {
    for (std::uint32_t i = 0; i < state_.reactors; ++i) reactors_.emplace_back(state_, i, connections);
  }
  ~HttpReader() override { stop(); }

  Status start(ReadFeed& feed) override {
    for (auto& reactor : reactors_) {
      if (auto started = reactor.start(feed); !started) {
        stop();
        return started;
      }
    }
    return Ok{};
  }

  void wake() override {
    for (auto& reactor : reactors_) reactor.wake();
  }

  void stop() override {
    for (auto& reactor : reactors_) reactor.ask_to_stop();
    for (auto& reactor : reactors_) reactor.stop();
    if (host_ != nullptr && state_.ramp.best() >= kWorthRemembering) host_->remember(state_.ramp.best());
  }

 private:
  HttpHost* host_;
  HttpReaderState state_;
  std::list<HttpReactor> reactors_;
};

}  // namespace

std::unique_ptr<Reader> make_http_reader(HttpReaderOptions options, HttpConnections& connections, HttpHost* host,
                                         LogSink& log) {
  return std::make_unique<HttpReader>(options, connections, host, log);
}

}  // namespace weightstream
