// Connections that live longer than a reader, so that the data travels on those that brought the headers: in pools, of
// which a reader borrows one for each of its threads.
#pragma once

#include <curl/curl.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "storage/http_connection.h"

namespace weightstream {

// libcurl's multi handle and the connections on it that rest. Used by one thread at a time.
class HttpConnectionPool {
 public:
  // Null when there is no memory.
  static std::unique_ptr<HttpConnectionPool> make();
  ~HttpConnectionPool();
  HttpConnectionPool(const HttpConnectionPool&) = delete;
  HttpConnectionPool& operator=(const HttpConnectionPool&) = delete;

  [[nodiscard]] CURLM* multi() const { return multi_; }
  // A connection to the server of `url` that can be used at once; null when none rests here.
  std::unique_ptr<HttpConnection> take(const std::string& url, const HttpOptions& options);
  void give_back(std::unique_ptr<HttpConnection> connection);

 private:
  explicit HttpConnectionPool(CURLM* multi);
  void drop_old();

  CURLM* const multi_;
  std::vector<std::unique_ptr<HttpConnection>> resting_;  // the last one rested last
};

// Thread-safe.
class HttpConnections {
 public:
  HttpConnections();
  ~HttpConnections();
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;

  // Null when there is no memory. Its callbacks and what runs on it are the caller's, until give_back().
  std::unique_ptr<HttpConnectionPool> take();
  void give_back(std::unique_ptr<HttpConnectionPool> pool);
  // Closes what is idle.
  void close_idle();

 private:
  const int process_;  // a forked child must not speak on its parent's connections, not even to close them
  std::mutex mutex_;
  std::vector<std::unique_ptr<HttpConnectionPool>> idle_;
};

}  // namespace weightstream
