#include "storage/http_connection.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>

namespace weightstream {
namespace {

constexpr auto kLongestRest = std::chrono::seconds(60);

// Whether this libcurl has the system's certificates in one file.
bool has_default_bundle() {
#if LIBCURL_VERSION_NUM >= 0x075400
  const auto* info = curl_version_info(CURLVERSION_NOW);
  if (info->age < CURLVERSION_TENTH || info->cainfo == nullptr) return false;
  std::error_code ignored;
  return std::filesystem::is_regular_file(info->cainfo, ignored);
#else
  return false;
#endif
}

std::size_t discard(char* /*data*/, std::size_t size, std::size_t count, void* /*self*/) { return size * count; }

}  // namespace

std::unique_ptr<HttpConnection> HttpConnection::begin(CURLM* multi, const std::string& url,
                                                      const HttpOptions& options) {
  std::unique_ptr<HttpConnection> connection(new HttpConnection(multi, url, options));
  if (connection->easy_ == nullptr || !connection->prepare(url, options)) return nullptr;
  connection->added_ = curl_multi_add_handle(multi, connection->easy_) == CURLM_OK;
  return connection->added_ ? std::move(connection) : nullptr;
}

HttpConnection::HttpConnection(CURLM* multi, const std::string& url, const HttpOptions& options)
    : multi_(multi),
      origin_(origin_of(url)),
      ca_bundle_(options.ca_bundle),
      verify_(options.verify),
      layered_(!origin_.starts_with("http:")),
      easy_(curl_easy_init()) {}

HttpConnection::~HttpConnection() {
  // Removing the handle closes the connection, but before libcurl 7.86 only when the multi handle goes: the server is
  // to stop sending at once.
  if (socket_ != CURL_SOCKET_BAD) ::shutdown(socket_, SHUT_RDWR);
  if (added_) curl_multi_remove_handle(multi_, easy_);
  curl_easy_cleanup(easy_);
}

bool HttpConnection::prepare(const std::string& url, const HttpOptions& options) {
  bool complete = true;
  const auto set = [&](CURLoption option, auto value) {
    complete = curl_easy_setopt(easy_, option, value) == CURLE_OK && complete;
  };
  set(CURLOPT_CONNECT_ONLY, 1L);
  set(CURLOPT_URL, url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
  set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  // Through a proxy as through a pipe, whatever the scheme: what is sent is meant for the server.
  set(CURLOPT_HTTPPROXYTUNNEL, 1L);
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_WRITEFUNCTION, &discard);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set(CURLOPT_USERAGENT, options.user_agent.c_str());  // for a proxy
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.policy.connect_timeout * 1000));
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  // Each connection asks for the addresses anew and takes one of them: object stores spread by DNS.
  set(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
  set(CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
  set(CURLOPT_SSL_VERIFYPEER, options.verify ? 1L : 0L);
  set(CURLOPT_SSL_VERIFYHOST, options.verify ? 2L : 0L);
  // One place for certificates, not a file and a folder: only then does libcurl keep them parsed between connections,
  // and parsing the system's takes longer than a handshake.
  if (options.ca_bundle.empty()) {
    if (has_default_bundle()) set(CURLOPT_CAPATH, nullptr);
  } else {
    std::error_code ignored;
    const bool folder = std::filesystem::is_directory(options.ca_bundle, ignored);
    set(CURLOPT_CAPATH, folder ? options.ca_bundle.c_str() : nullptr);
    set(CURLOPT_CAINFO, folder ? nullptr : options.ca_bundle.c_str());
  }
  set(CURLOPT_ERRORBUFFER, detail_);
  set(CURLOPT_PRIVATE, this);
#if LIBCURL_VERSION_NUM >= 0x075700
  // A name server that does not answer must not keep whoever stops waiting.
  curl_easy_setopt(easy_, CURLOPT_QUICK_EXIT, 1L);
#endif
  return complete;
}

CURLcode HttpConnection::connected(CURLcode code) {
  if (code != CURLE_OK) return code;
  if (curl_easy_getinfo(easy_, CURLINFO_ACTIVESOCKET, &socket_) != CURLE_OK || socket_ == CURL_SOCKET_BAD) {
    return CURLE_COULDNT_CONNECT;
  }
  layered_ = layered_ || proxy_status() != 0;  // to a proxy, perhaps
  scope_ = find_scope();
  return CURLE_OK;
}

AddressScope HttpConnection::find_scope() const {
  sockaddr_storage peer{};
  socklen_t size = sizeof peer;
  if (proxy_status() != 0 || ::getpeername(socket_, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {
    return scope_of_host(origin_);
  }
  // Both families have the port in the same place. Another one than asked for is that of a proxy without a status
  // (SOCKS), as nothing else is between a URL and a socket.
  const auto port = ntohs(reinterpret_cast<const sockaddr_in&>(peer).sin_port);
  if (!origin_.ends_with(std::string(":").append(std::to_string(port)))) return scope_of_host(origin_);
  return scope_of(reinterpret_cast<const sockaddr&>(peer));
}

int HttpConnection::proxy_status() const {
  long status = 0;
  curl_easy_getinfo(easy_, CURLINFO_HTTP_CONNECTCODE, &status);
  return static_cast<int>(status);
}

int HttpConnection::system_errno() const {
  long number = 0;
  curl_easy_getinfo(easy_, CURLINFO_OS_ERRNO, &number);
  return static_cast<int>(number);
}

CURLcode HttpConnection::send(std::string_view bytes, std::size_t& sent) {
  sent = 0;
  detail_[0] = '\0';
  return curl_easy_send(easy_, bytes.data(), bytes.size(), &sent);
}

CURLcode HttpConnection::receive(std::span<std::byte> room, std::size_t& received) {
  received = 0;
  if (layered_) return curl_easy_recv(easy_, room.data(), room.size(), &received);
  // libcurl would receive 16 KiB at a time, which takes twice the processor time.
  const auto count = ::recv(socket_, room.data(), room.size(), 0);
  if (count >= 0) {
    received = static_cast<std::size_t>(count);
    return CURLE_OK;
  }
  if (errno == EAGAIN || errno == EINTR) return CURLE_AGAIN;
  std::strncpy(detail_, std::strerror(errno), sizeof detail_ - 1);
  return CURLE_RECV_ERROR;
}

void HttpConnection::wake_at(int bytes) {
  if (bytes == wake_at_) return;
  if (::setsockopt(socket_, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes) == 0) wake_at_ = bytes;
}

void HttpConnection::rest() {
  wake_at(1);
  used_ = true;
  user = nullptr;
  resting_since_ = Clock::now();
}

bool HttpConnection::serves(const std::string& origin, const HttpOptions& options) const {
  return origin == origin_ && options.verify == verify_ && options.ca_bundle == ca_bundle_;
}

bool HttpConnection::rested_too_long(Clock::time_point now) const { return now - resting_since_ > kLongestRest; }

bool HttpConnection::usable() {
  std::byte unasked{};
  std::size_t received = 0;
  return receive({&unasked, 1}, received) == CURLE_AGAIN;
}

}  // namespace weightstream
