// One connection to a server: made by libcurl (names, addresses, proxies, TLS), then a stream of bytes both ways that
// are received where they belong.
#pragma once

#include <curl/curl.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "storage/address_scope.h"
#include "storage/http_object.h"

namespace weightstream {

// Used by one thread at a time: that of its multi handle.
class HttpConnection {
 public:
  using Clock = std::chrono::steady_clock;

  // Begins to connect to the server of `url`. libcurl's end of that comes as a message of `multi` with this connection
  // as CURLINFO_PRIVATE; give it to connected(). Null when there is no memory.
  static std::unique_ptr<HttpConnection> begin(CURLM* multi, const std::string& url, const HttpOptions& options);
  ~HttpConnection();
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // Whoever uses it now.
  void* user = nullptr;

  [[nodiscard]] CURLcode connected(CURLcode code);
  // Only once it is connected.
  [[nodiscard]] curl_socket_t socket() const { return socket_; }
  // Whether TLS is between, which holds bytes back that the socket does not tell of.
  [[nodiscard]] bool layered() const { return layered_; }
  // Whom it leads to; through a proxy, as far as the URL says. Only once it is connected.
  [[nodiscard]] AddressScope scope() const { return scope_; }
  // What a proxy answered to the request for a tunnel; 0 without a proxy.
  [[nodiscard]] int proxy_status() const;
  // libcurl's words for the last failure.
  [[nodiscard]] const char* detail() const { return detail_; }
  [[nodiscard]] int system_errno() const;

  // Moves at least one byte and at most all: CURLE_OK. CURLE_AGAIN: not without waiting. Received 0 bytes and
  // CURLE_OK: the peer has ended the connection.
  CURLcode send(std::string_view bytes, std::size_t& sent);
  CURLcode receive(std::span<std::byte> room, std::size_t& received);
  // Whether it has been used for a request before.
  [[nodiscard]] bool used() const { return used_; }

  // Wakes whoever waits for the socket only when so many bytes are there.
  void wake_at(int bytes);

  // Between requests. Resting for long, a connection is forgotten by firewalls and servers, some without a word.
  void rest();
  [[nodiscard]] bool serves(const std::string& origin, const HttpOptions& options) const;
  [[nodiscard]] bool rested_too_long(Clock::time_point now) const;
  // Whether it can be used again: open, and silent (nobody says anything unasked).
  [[nodiscard]] bool usable();

 private:
  HttpConnection(CURLM* multi, const std::string& url, const HttpOptions& options);
  bool prepare(const std::string& url, const HttpOptions& options);
  [[nodiscard]] AddressScope find_scope() const;

  CURLM* const multi_;
  const std::string origin_;
  const std::string ca_bundle_;
  const bool verify_;
  bool layered_;
  CURL* const easy_;  // after what may throw while it is made: only the destructor lets go of it
  bool added_ = false;
  curl_socket_t socket_ = CURL_SOCKET_BAD;
  AddressScope scope_ = AddressScope::kGlobal;
  bool used_ = false;
  int wake_at_ = 1;
  Clock::time_point resting_since_;
  char detail_[CURL_ERROR_SIZE] = {};
};

}  // namespace weightstream
