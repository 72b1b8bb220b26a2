// One thread of the http reader: its connections, the reads that run on them, and their time limits.
#pragma once

#include <curl/curl.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>

#include "base/log.h"
#include "base/result.h"
#include "storage/http_attempt.h"
#include "storage/http_connections.h"
#include "storage/http_read.h"
#include "storage/local_file.h"
#include "storage/ramp.h"
#include "storage/reader.h"

namespace weightstream {

// What the reactors of one reader share.
struct HttpReaderState {
  HttpReaderState(std::uint32_t start, std::uint32_t most, std::uint32_t of_reactors, LogSink& its_log)
      : ramp(start, most), reactors(of_reactors), log(its_log) {}

  Ramp ramp;
  const std::uint32_t reactors;
  LogSink& log;
  std::atomic<std::uint32_t> running = 0;  // reads in flight
  std::atomic<bool> starved = false;       // the feed had nothing at the last pull

  // The longest that an ordinary read takes; nothing before there is a sample of them.
  [[nodiscard]] std::optional<double> outlier_seconds() const;
  // Needs no memory: it is part of every end.
  void took(double seconds) noexcept;

 private:
  static constexpr std::size_t kSample = 64;
  mutable std::mutex mutex_;
  std::array<double, kSample> durations_;  // of the latest reads, as a ring
  std::size_t reads_ = 0;
};

class HttpReactor {
 public:
  HttpReactor(HttpReaderState& state, std::uint32_t index, HttpConnections& connections)
      : state_(state), index_(index), connections_(connections) {}
  ~HttpReactor();
  HttpReactor(const HttpReactor&) = delete;
  HttpReactor& operator=(const HttpReactor&) = delete;

  Status start(ReadFeed& feed);
  void wake();
  // Tells the thread to end, without waiting for it.
  void ask_to_stop();
  // Reports what is running as closed and joins the thread.
  void stop();

 private:
  using Clock = HttpRead::Clock;
  // For heads, and what comes along with them: larger would mean to copy more of the body, smaller more calls.
  static constexpr std::size_t kScratchBytes = 8 << 10;
  struct Running {
    explicit Running(std::unique_ptr<HttpRead> its_read) : read(std::move(its_read)) {}
    std::unique_ptr<HttpRead> read;
    std::unique_ptr<HttpAttempt> main;
    std::unique_ptr<HttpAttempt> hedge;
  };

  struct Listening {
    HttpAttempt* attempt;  // release() forgets it
    std::uint32_t events;  // those that epoll was told of
  };

  static int on_socket(CURL* easy, curl_socket_t socket, int what, void* self, void* known) noexcept;
  static int on_timer(CURLM* multi, long milliseconds, void* self) noexcept;

  void run();
  void turn();
  [[nodiscard]] std::uint32_t places() const;
  void pull_reads(Clock::time_point now);
  void step(Running& running, Clock::time_point now);
  void watch(Running& running, Clock::time_point now);
  void begin(Running& running, std::unique_ptr<HttpAttempt>& slot, std::unique_ptr<HttpAttempt> attempt);
  void restart(Running& running, HttpAttempt& attempt);
  void advance(HttpAttempt& attempt, Clock::time_point now);
  void advance_ready(Clock::time_point now);
  void collect(Clock::time_point now);
  [[nodiscard]] Status listen_to(HttpAttempt& attempt);
  void release(HttpAttempt& attempt);
  void end(Running& running, HttpAttempt& attempt, Verdict verdict, Clock::time_point now);
  void drop(std::unique_ptr<HttpAttempt>& attempt);
  void finish(std::list<Running>::iterator running, Clock::time_point now);
  void wait(Clock::time_point until);
  void abandon() noexcept;

  HttpReaderState& state_;
  const std::uint32_t index_;
  HttpConnections& connections_;
  ReadFeed* feed_ = nullptr;
  std::unique_ptr<HttpConnectionPool> pool_;
  FileDescriptor epoll_;
  FileDescriptor event_;
  std::thread thread_;
  std::atomic<bool> stopping_ = false;
  std::atomic<bool> woken_ = true;

  std::list<Running> reads_;
  std::unordered_map<int, Listening> sockets_;  // of connections that are made; the others are libcurl's
  std::array<std::byte, kScratchBytes> scratch_;
  std::optional<Clock::time_point> timer_;  // when libcurl wants to be called
  std::uint64_t arrived_ = 0;               // bytes, since the ramp was told
};

}  // namespace weightstream
