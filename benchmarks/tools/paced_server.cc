// A server that gives each connection a fixed rate, as object stores do: GET (ranges too) and HEAD of files below a
// folder, over HTTP/1.1 with keep-alive. Bytes leave by sendfile every few milliseconds, each connection at moments of
// its own, so that many connections add up to a smooth stream at little cost in CPU time.
//
//   paced-server --root FOLDER --rate BYTES_PER_SECOND [--first-byte-ms N] [--threads N]
//
// It binds two free ports of 127.0.0.1, prints them on one line, and serves until it is killed.

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "file_response.h"

namespace {

using Clock = std::chrono::steady_clock;
using Time = Clock::time_point;
using std::chrono::duration;
using std::chrono::milliseconds;

constexpr auto kStep = milliseconds(5);
// What a connection may catch up on after the server came late, or the client's window was full.
constexpr double kCatchUpSeconds = 0.05;
constexpr std::size_t kLongestHead = 65536;

struct Settings {
  std::string root;
  double rate = 0;  // bytes per second and connection
  milliseconds first_byte{0};
  unsigned threads = 2;
};

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

struct Connection {
  Descriptor socket;
  std::string received;
  std::optional<Response> response;
  Time due;            // when the response goes on
  Time filled;         // until when the rate is accounted for
  double allowed = 0;  // bytes that may leave now
};

// One thread's connections.
class Reactor {
 public:
  Reactor(const Settings& settings, const std::vector<int>& listeners)
      : settings_(settings),
        epoll_(epoll_create1(EPOLL_CLOEXEC)),
        timer_(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK)) {
    if (epoll_.get() < 0 || timer_.get() < 0) die("epoll");
    // EPOLLEXCLUSIVE: a new connection wakes one thread, not all.
    for (const int listener : listeners) watch(listener, EPOLLIN | EPOLLEXCLUSIVE);
    watch(timer_.get(), EPOLLIN);
    listeners_.insert(listeners.begin(), listeners.end());
  }

  [[noreturn]] void run() {
    std::array<epoll_event, 64> events{};
    for (;;) {
      set_timer();
      const int count = epoll_wait(epoll_.get(), events.data(), events.size(), -1);
      if (count < 0 && errno != EINTR) die("epoll_wait");
      for (int i = 0; i < count; ++i) {
        const int number = events[i].data.fd;
        if (number == timer_.get()) {
          std::uint64_t ticks = 0;
          [[maybe_unused]] const auto got = read(number, &ticks, sizeof ticks);
        } else if (listeners_.contains(number)) {
          take_connection(number);
        } else if (const auto found = connections_.find(number); found != connections_.end()) {
          if (!receive(*found->second)) drop(number);
        }
      }
      serve_due();
    }
  }

 private:
  void watch(int number, std::uint32_t events) {
    epoll_event event{};
    event.events = events;
    event.data.fd = number;
    if (epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, number, &event) != 0) die("epoll_ctl");
  }

  void set_timer() {
    itimerspec at{};
    if (!due_.empty()) {
      const auto left = std::max<std::int64_t>(1, std::chrono::nanoseconds(due_.begin()->first - Clock::now()).count());
      at.it_value.tv_sec = left / 1'000'000'000;
      at.it_value.tv_nsec = left % 1'000'000'000;
    }
    if (timerfd_settime(timer_.get(), 0, &at, nullptr) != 0) die("timerfd_settime");
  }

  void take_connection(int listener) {
    Descriptor socket(accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (socket.get() < 0) return;  // another thread was faster
    const int on = 1;
    setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const int number = socket.get();
    auto connection = std::make_unique<Connection>();
    connection->socket = std::move(socket);
    connection->filled = Clock::now();
    connections_[number] = std::move(connection);
    watch(number, EPOLLIN | EPOLLRDHUP | EPOLLET);
  }

  void drop(int number) {
    const auto found = connections_.find(number);
    due_.erase({found->second->due, number});
    connections_.erase(found);
  }

  // Takes what came in; false when the connection is over.
  bool receive(Connection& connection) {
    std::array<char, 4096> buffer;
    for (;;) {
      const auto count = recv(connection.socket.get(), buffer.data(), buffer.size(), 0);
      if (count == 0) return false;
      if (count < 0) {
        if (errno == EINTR) continue;
        if (errno != EAGAIN) return false;
        break;
      }
      connection.received.append(buffer.data(), static_cast<std::size_t>(count));
      if (connection.received.size() > kLongestHead) return false;
    }
    begin(connection);
    return true;
  }

  // Starts on the next request, if all of it is there and nothing else is being answered.
  void begin(Connection& connection) {
    if (connection.response) return;
    const auto end = connection.received.find("\r\n\r\n");
    if (end == std::string::npos) return;
    const auto request = parse(std::string_view(connection.received).substr(0, end));
    connection.received.erase(0, end + 4);
    if (request) {
      connection.response = answer(settings_.root, *request);
    } else {  // it may have a body, which nobody reads
      connection.response = refusal("400 Bad Request");
      connection.response->close_after = true;
    }
    connection.due = Clock::now() + settings_.first_byte;
    due_.insert({connection.due, connection.socket.get()});
  }

  void serve_due() {
    const auto now = Clock::now();
    while (!due_.empty() && due_.begin()->first <= now) {
      const int number = due_.begin()->second;
      due_.erase(due_.begin());
      if (!go_on(*connections_.at(number), now)) drop(number);
    }
  }

  // Sends what the rate allows now; false when the connection is over.
  bool go_on(Connection& connection, Time now) {
    auto& response = *connection.response;
    const double step = settings_.rate * duration<double>(kStep).count();
    connection.allowed += settings_.rate * duration<double>(now - connection.filled).count();
    connection.filled = now;
    // Time without a request earns no more than one step.
    connection.allowed =
        std::min(connection.allowed, response.head_sent == 0 ? step : settings_.rate * kCatchUpSeconds);
    while (response.head_sent < response.head.size()) {
      const auto count = send(connection.socket.get(), response.head.data() + response.head_sent,
                              response.head.size() - response.head_sent, MSG_NOSIGNAL | (response.left ? MSG_MORE : 0));
      if (count < 0) return errno == EAGAIN && again(connection, now);
      response.head_sent += static_cast<std::size_t>(count);
    }
    while (response.left > 0 && connection.allowed >= 1) {
      const auto most = std::min<std::uint64_t>(response.left, static_cast<std::uint64_t>(connection.allowed));
      const auto count = sendfile(connection.socket.get(), response.file.get(), &response.offset, most);
      if (count < 0) return errno == EAGAIN && again(connection, now);
      if (count == 0) return false;  // the file became shorter
      response.left -= static_cast<std::uint64_t>(count);
      connection.allowed -= static_cast<double>(count);
    }
    if (response.left > 0) return again(connection, now);
    const bool over = response.close_after;
    connection.response.reset();
    begin(connection);
    return !over;
  }

  bool again(Connection& connection, Time now) {
    connection.due = std::max(connection.due + kStep, now + kStep / 2);
    due_.insert({connection.due, connection.socket.get()});
    return true;
  }

  const Settings& settings_;
  Descriptor epoll_;
  Descriptor timer_;
  std::set<int> listeners_;
  std::unordered_map<int, std::unique_ptr<Connection>> connections_;
  std::set<std::pair<Time, int>> due_;
};

int listen_on_free_port(std::uint16_t& port) {
  const int number = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (number < 0 || bind(number, generic, length) != 0 || listen(number, 1024) != 0 ||
      getsockname(number, generic, &length) != 0) {
    die("listen");
  }
  port = ntohs(address.sin_port);
  return number;
}

Settings settings_from(int count, char** arguments) {
  Settings settings;
  for (int i = 1; i + 1 < count; i += 2) {
    const std::string_view name = arguments[i];
    const char* value = arguments[i + 1];
    if (name == "--root") settings.root = value;
    if (name == "--rate") settings.rate = std::atof(value);
    if (name == "--first-byte-ms") settings.first_byte = milliseconds(std::atoi(value));
    if (name == "--threads") settings.threads = static_cast<unsigned>(std::max(1, std::atoi(value)));
  }
  if (settings.root.empty() || settings.rate <= 0) {
    std::fputs("usage: paced-server --root FOLDER --rate BYTES_PER_SECOND [--first-byte-ms N] [--threads N]\n", stderr);
    std::exit(2);
  }
  return settings;
}

}  // namespace

int main(int count, char** arguments) {
  const Settings settings = settings_from(count, arguments);
  std::signal(SIGPIPE, SIG_IGN);  // sendfile has no MSG_NOSIGNAL
  std::array<std::uint16_t, 2> ports{};
  const std::vector<int> listeners{listen_on_free_port(ports[0]), listen_on_free_port(ports[1])};
  std::printf("%d %d\n", ports[0], ports[1]);
  std::fflush(stdout);
  std::vector<std::thread> threads;
  for (unsigned i = 1; i < settings.threads; ++i) threads.emplace_back([&] { Reactor(settings, listeners).run(); });
  Reactor(settings, listeners).run();
}
