// What is remembered of a host (scheme, name and port) as long as the process lives: how many connections paid, and
// until when it asked to be left alone.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace weightstream {

class HttpHost {
 public:
  using Clock = std::chrono::steady_clock;

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
  mutable std::mutex mutex_;
  std::uint32_t connections_ = 0;
  Clock::time_point quiet_until_{};
};

class HttpHosts {
 public:
  [[nodiscard]] std::shared_ptr<HttpHost> at(const std::string& origin) {
    const std::lock_guard lock(mutex_);
    auto& host = hosts_[origin];
    if (!host) host = std::make_shared<HttpHost>();
    return host;
  }

 private:
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<HttpHost>> hosts_;
};

}  // namespace weightstream
