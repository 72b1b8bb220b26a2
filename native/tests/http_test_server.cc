#include "http_test_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "process_state.h"
#include "test_files.h"

namespace weightstream::testing {
namespace {

int bind_to_loopback(std::uint16_t& port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), length) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    throw std::runtime_error("no port on loopback");
  }
  port = ntohs(address.sin_port);
  return fd;
}

std::string url_of(std::uint16_t port, const std::string& path) {
  return "http://127.0.0.1:" + std::to_string(port) + path;
}

std::string lower(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\r')) text.remove_suffix(1);
  return text;
}

// "bytes=begin-last".
std::optional<ByteRange> parse_range(std::string_view value) {
  if (!value.starts_with("bytes=")) return std::nullopt;
  value.remove_prefix(6);
  ByteRange range;
  auto [dash, first] = std::from_chars(value.data(), value.data() + value.size(), range.begin);
  if (first != std::errc() || dash == value.data() + value.size() || *dash != '-') return std::nullopt;
  std::uint64_t last = 0;
  auto [end, second] = std::from_chars(dash + 1, value.data() + value.size(), last);
  if (second != std::errc() || end != value.data() + value.size() || last < range.begin) return std::nullopt;
  range.end = last + 1;
  return range;
}

// Reads up to the empty line; false at the end of the connection.
bool read_request(int fd, HttpRequest& request) {
  std::string text;
  while (text.find("\r\n\r\n") == std::string::npos) {
    char bytes[4096];
    const auto got = ::recv(fd, bytes, sizeof bytes, 0);
    if (got <= 0) return false;
    text.append(bytes, static_cast<std::size_t>(got));
  }
  std::istringstream lines(text);
  std::string line;
  std::getline(lines, line);
  const auto begin = line.find(' ') + 1;
  request.path = line.substr(begin, line.find(' ', begin) - begin);
  while (std::getline(lines, line)) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    request.headers[lower(line.substr(0, colon))] = trim(std::string_view(line).substr(colon + 1));
  }
  request.range = parse_range(request.header("range"));
  return true;
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto sent = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(sent));
  }
  return true;
}

void close_with_reset(int fd) {
  const linger none{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
  ::close(fd);
}

bool names(const std::string& header, const std::string& name) {
  return lower(header.substr(0, header.find(':'))) == lower(name);
}

}  // namespace

std::string HttpRequest::header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? std::string() : found->second;
}

HttpReply& HttpReply::set(const std::string& name, const std::string& value) {
  std::erase_if(headers, [&](const std::string& header) { return names(header, name); });
  if (!value.empty()) headers.push_back(name + ": " + value);
  return *this;
}

HttpReply& HttpReply::cut(std::size_t bytes, End then) {
  body.resize(std::min(bytes, body.size()));
  end = then;
  return *this;
}

HttpReply reply(int status, std::vector<std::string> headers, std::string body) {
  HttpReply made{.status = status, .headers = std::move(headers), .body = std::move(body)};
  return made.set("Content-Length", std::to_string(made.body.size()));
}

HttpContent pattern_content(std::uint64_t size, std::uint64_t seed) {
  HttpContent content{.bytes = std::string(size, '\0')};
  fill_pattern(std::as_writable_bytes(std::span(content.bytes)), seed, 0);
  return content;
}

HttpContent file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {.bytes = std::string(std::istreambuf_iterator<char>(file), {})};
}

HttpTestServer::HttpTestServer() : listener_(bind_to_loopback(port_)) {}

std::unique_ptr<HttpTestServer> HttpTestServer::make() {
  auto server = std::make_unique<HttpTestServer>();
  server->listen();
  return server;
}

void HttpTestServer::listen() {
  if (::listen(listener_, 256) != 0) throw std::runtime_error("listen");
  acceptor_ = std::thread([this] { accept_connections(); });
}

HttpTestServer::~HttpTestServer() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    for (const auto& connection : connections_) {
      if (!connection.done) ::shutdown(connection.fd, SHUT_RDWR);
    }
  }
  changed_.notify_all();
  ::shutdown(listener_, SHUT_RDWR);
  if (acceptor_.joinable()) acceptor_.join();
  for (auto& connection : connections_) connection.thread.join();
  ::close(listener_);
}

void HttpTestServer::put(const std::string& path, HttpContent content) {
  const std::lock_guard lock(mutex_);
  contents_[path] = std::move(content);
}

void HttpTestServer::script(Script script) {
  const std::lock_guard lock(mutex_);
  script_ = std::move(script);
}

void HttpTestServer::door(Door door) {
  const std::lock_guard lock(mutex_);
  door_ = std::move(door);
}

std::string HttpTestServer::url(const std::string& path) const { return url_of(port_, path); }

std::vector<HttpRequest> HttpTestServer::requests() const {
  const std::lock_guard lock(mutex_);
  return requests_;
}

std::size_t HttpTestServer::connections() const {
  const std::lock_guard lock(mutex_);
  return accepted_;
}

bool HttpTestServer::wait_for_requests(std::size_t count) const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return requests_.size() >= count; });
}

bool HttpTestServer::wait_until_idle() const {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return open_ == 0; });
}

void HttpTestServer::forget() {
  const std::lock_guard lock(mutex_);
  requests_.clear();
  accepted_ = 0;
}

void HttpTestServer::accept_connections() {
  while (true) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    const std::lock_guard lock(mutex_);
    if (fd < 0 || stopping_) {
      if (fd >= 0) ::close(fd);
      return;
    }
    const auto number = accepted_++;
    if (door_ && !door_(number)) {
      close_with_reset(fd);
      continue;
    }
    const int now = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &now, sizeof now);
    std::erase_if(connections_, [](Connection& connection) {
      if (!connection.done) return false;
      connection.thread.join();
      return true;
    });
    ++open_;
    auto& connection = connections_.emplace_back();
    connection.number = number;
    connection.fd = fd;
    connection.thread = std::thread([this, &connection] { serve(connection); });
  }
}

void HttpTestServer::serve(Connection& connection) {
  auto end = HttpReply::End::kKeep;
  while (end == HttpReply::End::kKeep) {
    HttpRequest request;
    request.connection = connection.number;
    if (!read_request(connection.fd, request)) break;
    HttpReply reply;
    {
      const std::lock_guard lock(mutex_);
      request.number = requests_.size();
      requests_.push_back(request);
      changed_.notify_all();
      auto scripted = script_ ? script_(request) : std::nullopt;
      reply = scripted ? std::move(*scripted) : right_answer(request);
    }
    end = reply.end;
    if (!answer(connection.fd, reply)) break;
    if (end == HttpReply::End::kHang) hang(connection.fd);
  }
  const std::lock_guard lock(mutex_);
  if (end == HttpReply::End::kReset) {
    close_with_reset(connection.fd);
  } else {
    ::close(connection.fd);
  }
  connection.done = true;
  --open_;
  changed_.notify_all();
}

bool HttpTestServer::answer(int fd, const HttpReply& reply) const {
  std::string head;
  if (reply.status != 0) head = "HTTP/1.1 " + std::to_string(reply.status) + " As Scripted\r\n";
  for (const auto& header : reply.headers) head += header + "\r\n";
  if (!head.empty()) head += "\r\n";
  if (!send_all(fd, head)) return false;
  std::string_view body = reply.body;
  while (!body.empty()) {
    const auto part = body.substr(0, reply.chunk);
    if (!send_all(fd, part)) return false;
    body.remove_prefix(part.size());
    if (body.empty() || (reply.pause.count() == 0 && reply.until == 0)) continue;
    std::unique_lock lock(mutex_);
    if (changed_.wait_for(lock, reply.pause, [this] { return stopping_; })) return false;
    changed_.wait(lock, [&] { return stopping_ || requests_.size() >= reply.until; });
  }
  return true;
}

// The destructor shuts the connection down, which ends this too.
void HttpTestServer::hang(int fd) const {
  char byte = 0;
  while (::recv(fd, &byte, 1, 0) > 0) {
  }
}

HttpReply HttpTestServer::right_answer(const HttpRequest& request) const {
  const auto found = contents_.find(request.path.substr(0, request.path.find('?')));
  if (found == contents_.end()) return reply(404, {}, "<Error><Code>NoSuchKey</Code></Error>");
  const HttpContent& content = found->second;
  const auto asked = request.header("if-match");
  for (const auto& header : content.headers) {
    if (!asked.empty() && names(header, "etag") && trim(std::string_view(header).substr(5)) != asked) {
      return reply(412);
    }
  }
  if (!request.range) return reply(200, content.headers, content.bytes);
  const std::uint64_t size = content.bytes.size();
  if (request.range->begin >= size) return reply(416, {"Content-Range: bytes */" + std::to_string(size)});
  const std::uint64_t end = std::min(request.range->end, size);
  auto headers = content.headers;
  headers.push_back("Content-Range: bytes " + std::to_string(request.range->begin) + "-" + std::to_string(end - 1) +
                    "/" + std::to_string(size));
  return reply(206, std::move(headers), content.bytes.substr(request.range->begin, end - request.range->begin));
}

// One connection fits into the queue of a listener that never accepts; for more the kernel does not answer.
BlackHole::BlackHole() : listener_(bind_to_loopback(port_)) {
  if (::listen(listener_, 0) != 0) throw std::runtime_error("listen");
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port_);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  for (int i = 0; i < 4; ++i) {
    fillers_.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    ::connect(fillers_.back(), reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
}

BlackHole::~BlackHole() {
  for (const int fd : fillers_) ::close(fd);
  ::close(listener_);
}

std::string BlackHole::url(const std::string& path) const { return url_of(port_, path); }

}  // namespace weightstream::testing
