#include "storage/http_connections.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

namespace weightstream {
namespace {

constexpr long kMostResting = 256;  // connections of one pool

// Once in a process, by whoever needs it first: setting TLS up takes milliseconds that local loads need not pay.
bool set_up_libcurl() {
  static const bool done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return done;
}

}  // namespace

std::unique_ptr<HttpConnectionPool> HttpConnectionPool::make() {
  if (!set_up_libcurl()) return nullptr;
  auto* multi = curl_multi_init();
  if (multi == nullptr) return nullptr;
  // libcurl counts connections as idle until they send for the first time: it must have room for all.
  curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, 16 * kMostResting);
  return std::unique_ptr<HttpConnectionPool>(new HttpConnectionPool(multi));
}

// With room for all that may rest: to give a connection back must not fail, as it is part of giving up.
HttpConnectionPool::HttpConnectionPool(CURLM* multi) : multi_(multi) { resting_.reserve(kMostResting); }

HttpConnectionPool::~HttpConnectionPool() {
  resting_.clear();
  curl_multi_cleanup(multi_);
}

std::unique_ptr<HttpConnection> HttpConnectionPool::take(const std::string& url, const HttpOptions& options) {
  const auto origin = origin_of(url);
  drop_old();
  for (std::size_t i = resting_.size(); i-- > 0;) {
    if (!resting_[i]->serves(origin, options)) continue;
    auto connection = std::move(resting_[i]);
    resting_.erase(resting_.begin() + static_cast<std::ptrdiff_t>(i));
    if (connection->usable()) return connection;
  }
  return nullptr;
}

void HttpConnectionPool::give_back(std::unique_ptr<HttpConnection> connection) {
  connection->rest();
  drop_old();
  if (resting_.size() >= kMostResting) resting_.erase(resting_.begin());
  resting_.push_back(std::move(connection));
}

void HttpConnectionPool::drop_old() {
  const auto now = HttpConnection::Clock::now();
  const auto first_young = std::find_if(resting_.begin(), resting_.end(),
                                        [&](const auto& connection) { return !connection->rested_too_long(now); });
  resting_.erase(resting_.begin(), first_young);
}

HttpConnections::HttpConnections() : process_(::getpid()) {}

HttpConnections::~HttpConnections() { close_idle(); }

std::unique_ptr<HttpConnectionPool> HttpConnections::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto pool = std::move(idle_.back());
      idle_.pop_back();
      return pool;
    }
  }
  return HttpConnectionPool::make();
}

void HttpConnections::give_back(std::unique_ptr<HttpConnectionPool> pool) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(std::move(pool));
}

void HttpConnections::close_idle() {
  if (::getpid() != process_) {
    for (auto& pool : idle_) (void)pool.release();
    return;
  }
  std::vector<std::unique_ptr<HttpConnectionPool>> idle;
  const std::lock_guard lock(mutex_);
  idle.swap(idle_);
}

}  // namespace weightstream
