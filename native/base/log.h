// A bounded sink for the core's log lines. Core threads never call into Python, so they leave lines here; the side
// that owns a logger (the bindings) drains them. Thread-safe. Lines beyond the bound are dropped, oldest first: a log
// must never grow without limit nor make a reader wait.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace weightstream {

enum class LogLevel : std::uint8_t { kDebug, kInfo, kWarning };

struct LogLine {
  LogLevel level;
  std::string text;
};

class LogSink : public std::enable_shared_from_this<LogSink> {
 public:
  void write(LogLevel level, std::string text);
  // Only the first time that `what` is written about: what many sources share is said once, not for each.
  void write_once(const std::string& what, LogLevel level, std::string text);
  // The lines written since the last drain, in order.
  [[nodiscard]] std::vector<LogLine> drain();

 private:
  static constexpr std::size_t kMaxLines = 1024;
  std::mutex mutex_;
  std::deque<LogLine> lines_;
  std::set<std::string> said_;
};

}  // namespace weightstream
