// What is remembered of a host (scheme, name and port) as long as the process lives: whether it ever answered, how many
// connections paid, and until when it asked to be left alone.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace weightstream {

// Thread-safe.
class HttpHost {
 public:
  using Clock = std::chrono::steady_clock;

  explicit HttpHost(std::string origin) : origin_(std::move(origin)) {}

  [[nodiscard]] const std::string& origin() const { return origin_; }

  // Whether the head of an answer, whatever it said, ever came from it.
  [[nodiscard]] bool answered() const { return answered_.load(std::memory_order_relaxed); }
  void heard() { answered_.store(true, std::memory_order_relaxed); }

  // How many connections a load ended with; 0 before the first.
  [[nodiscard]] std::uint32_t remembered() const {
    const std::lock_guard lock(mutex_);
    return connections_;
  }
  void remember(std::uint32_t connections) {
    const std::lock_guard lock(mutex_);
    connections_ = connections;
  }

  [[nodiscard]] Clock::time_point quiet_until() const {
    const std::lock_guard lock(mutex_);
    return quiet_until_;
  }
  void quieten(Clock::time_point until) {
    const std::lock_guard lock(mutex_);
    if (until > quiet_until_) quiet_until_ = until;
  }

 private:
  const std::string origin_;
  std::atomic<bool> answered_ = false;
  mutable std::mutex mutex_;
  std::uint32_t connections_ = 0;
  Clock::time_point quiet_until_{};
};

// Thread-safe. Copies share what they know.
class HttpHosts {
 public:
  [[nodiscard]] std::shared_ptr<HttpHost> at(const std::string& origin) const {
    const std::lock_guard lock(known_->mutex);
    auto& host = known_->hosts[origin];
    if (!host) host = std::make_shared<HttpHost>(origin);
    return host;
  }

 private:
  struct Known {
    std::mutex mutex;
    std::map<std::string, std::shared_ptr<HttpHost>> hosts;
  };
  std::shared_ptr<Known> known_ = std::make_shared<Known>();
};

}  // namespace weightstream
