#include "base/log.h"

#include <iterator>
#include <utility>

namespace weightstream {

void LogSink::write(LogLevel level, std::string text) {
  const std::lock_guard lock(mutex_);
  if (lines_.size() == kMaxLines) lines_.pop_front();
  lines_.push_back({level, std::move(text)});
}

void LogSink::write_once(const std::string& what, LogLevel level, std::string text) {
  {
    const std::lock_guard lock(mutex_);
    if (!said_.insert(what).second) return;
  }
  write(level, std::move(text));
}

std::vector<LogLine> LogSink::drain() {
  const std::lock_guard lock(mutex_);
  std::vector<LogLine> drained(std::make_move_iterator(lines_.begin()), std::make_move_iterator(lines_.end()));
  lines_.clear();
  return drained;
}

}  // namespace weightstream
