#include "storage/http_connections.h"

#include <unistd.h>

namespace weightstream {
namespace {

constexpr long kMostIdle = 256;  // connections that a handle keeps

// Once in a process, by whoever needs it first: setting TLS up takes milliseconds that local loads need not pay.
bool set_up_libcurl() {
  static const bool done = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
  return done;
}

}  // namespace

HttpConnections::HttpConnections() : process_(::getpid()) {}

HttpConnections::~HttpConnections() { close_idle(); }

CURLM* HttpConnections::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      auto* multi = idle_.back();
      idle_.pop_back();
      return multi;
    }
  }
  if (!set_up_libcurl()) return nullptr;
  auto* multi = curl_multi_init();
  if (multi != nullptr) curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, kMostIdle);
  return multi;
}

void HttpConnections::give_back(CURLM* multi) {
  const std::lock_guard lock(mutex_);
  idle_.push_back(multi);
}

void HttpConnections::close_idle() {
  if (::getpid() != process_) return;
  std::vector<CURLM*> idle;
  {
    const std::lock_guard lock(mutex_);
    idle.swap(idle_);
  }
  for (auto* multi : idle) curl_multi_cleanup(multi);
}

}  // namespace weightstream
