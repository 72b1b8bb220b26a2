// libcurl's multi handles with the connections that they keep alive. A reader borrows one for each of its threads and
// gives it back, so that the data travels on the connections that brought the headers.
#pragma once

#include <curl/curl.h>

#include <mutex>
#include <vector>

namespace weightstream {

class HttpConnections {
 public:
  HttpConnections();
  ~HttpConnections();
  HttpConnections(const HttpConnections&) = delete;
  HttpConnections& operator=(const HttpConnections&) = delete;

  // Null when there is no memory. The caller adds transfers and sets callbacks; before give_back() it takes all away.
  CURLM* take();
  void give_back(CURLM* multi);
  // Closes what is idle.
  void close_idle();

 private:
  const int process_;  // a forked child must not speak on its parent's connections, not even to close them
  std::mutex mutex_;
  std::vector<CURLM*> idle_;
};

}  // namespace weightstream
