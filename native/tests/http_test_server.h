// A server that does what a test says: HTTP/1.1 over loopback, one object per path, a function that may answer each
// request otherwise than right, and a word for each connection before its first request.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace weightstream::testing {

struct HttpRequest {
  std::size_t number = 0;      // of all requests to this server, from 0
  std::size_t connection = 0;  // of all connections to this server, from 0
  std::string path;            // with the query
  std::map<std::string, std::string> headers;  // names in lower case
  std::optional<ByteRange> range;

  // Empty where the request does not have it.
  [[nodiscard]] std::string header(const std::string& name) const;
};

// What goes back, and what happens to the connection then.
struct HttpReply {
  enum class End { kKeep, kFin, kReset, kHang };  // kHang: nothing more until the client goes or the server ends

  int status = 206;
  std::vector<std::string> headers = {};  // "Name: value"; just as they are sent
  std::string body = {};
  End end = End::kKeep;
  std::size_t chunk = SIZE_MAX;          // bytes of the body that are sent at a time,
  std::chrono::milliseconds pause = {};  // with such pauses between them;
  std::size_t until = 0;                 // after the first of them not before there were so many requests

  // Replaces or adds a header; an empty value takes it away.
  HttpReply& set(const std::string& name, const std::string& value);
  // Only so many bytes of the body, then this; Content-Length stays.
  HttpReply& cut(std::size_t bytes, End then);
};
// A response with its Content-Length.
[[nodiscard]] HttpReply reply(int status, std::vector<std::string> headers = {}, std::string body = {});

struct HttpContent {
  std::string bytes = {};
  std::vector<std::string> headers = {"ETag: \"1\""};  // of every response with bytes of it
};
// `size` bytes of the pattern of `seed`.
[[nodiscard]] HttpContent pattern_content(std::uint64_t size, std::uint64_t seed);
// What is in a file.
[[nodiscard]] HttpContent file_content(const std::string& path);

class HttpTestServer {
 public:
  // Nothing returned: the right answer.
  using Script = std::function<std::optional<HttpReply>(const HttpRequest&)>;
  // Whether to serve the connection of this number; one that is not served is reset.
  using Door = std::function<bool(std::size_t)>;

  // Refuses connections until listen().
  HttpTestServer();
  ~HttpTestServer();
  HttpTestServer(const HttpTestServer&) = delete;
  HttpTestServer& operator=(const HttpTestServer&) = delete;
  // A server that listens.
  static std::unique_ptr<HttpTestServer> make();
  void listen();

  void put(const std::string& path, HttpContent content);
  // Both are called under a lock: one call at a time.
  void script(Script script);
  void door(Door door);

  [[nodiscard]] std::string url(const std::string& path) const;
  // What a server that keeps the rules answers. For scripts.
  [[nodiscard]] HttpReply right_answer(const HttpRequest& request) const;
  [[nodiscard]] std::vector<HttpRequest> requests() const;
  [[nodiscard]] std::size_t connections() const;
  // Waits until there were so many; false when that takes too long.
  [[nodiscard]] bool wait_for_requests(std::size_t count) const;
  // Waits until no connection is open; false when that takes too long.
  [[nodiscard]] bool wait_until_idle() const;
  // Forgets the requests and connections that were, so that their numbers begin anew.
  void forget();

 private:
  struct Connection {
    std::size_t number = 0;
    int fd = -1;
    bool done = false;
    std::thread thread;
  };
  void accept_connections();
  void serve(Connection& connection);
  bool answer(int fd, const HttpReply& reply) const;
  void hang(int fd) const;

  std::uint16_t port_ = 0;  // before the listener, whose making sets it
  int listener_ = -1;
  std::thread acceptor_;
  mutable std::mutex mutex_;
  mutable std::condition_variable changed_;
  bool stopping_ = false;
  Script script_;
  Door door_;
  std::map<std::string, HttpContent> contents_;
  std::vector<HttpRequest> requests_;
  std::size_t accepted_ = 0;
  std::size_t open_ = 0;
  std::list<Connection> connections_;
};

// A port on which connections are neither accepted nor refused.
class BlackHole {
 public:
  BlackHole();
  ~BlackHole();
  BlackHole(const BlackHole&) = delete;
  BlackHole& operator=(const BlackHole&) = delete;
  [[nodiscard]] std::string url(const std::string& path) const;

 private:
  std::uint16_t port_ = 0;  // before the listener, whose making sets it
  int listener_ = -1;
  std::vector<int> fillers_;
};

}  // namespace weightstream::testing
