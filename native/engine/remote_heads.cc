#include "engine/remote_heads.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "base/core_thread.h"
#include "storage/http_reader.h"
#include "storage/reader.h"

namespace weightstream {
namespace {

// Of buffers that wait for bytes: ordinary heads all at once, huge ones one by one.
constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 20;
constexpr auto kCancelCheck = std::chrono::milliseconds(20);

class Heads final : public ReadFeed {
 public:
  Heads(const std::vector<std::shared_ptr<HttpObject>>& objects, std::uint64_t speculative_bytes,
        HeadConsumer& consumer)
      : objects_(objects), consumer_(consumer), heads_(objects.size()), left_(objects.size()) {
    for (std::size_t i = 0; i < objects.size(); ++i) {
      heads_[i].need = objects[i]->size_known() ? std::min(speculative_bytes, objects[i]->size()) : speculative_bytes;
      todo_.push_back(i);
    }
  }

  std::optional<ReadRequest> pull() override {
    const std::lock_guard lock(mutex_);
    if (todo_.empty() || error_) return std::nullopt;
    const auto i = todo_.front();
    Head& head = heads_[i];
    if (taken_ > 0 && taken_ + head.need > kMostBytes) return std::nullopt;
    std::unique_ptr<std::byte[]> bytes(new (std::nothrow) std::byte[head.need]);
    if (!bytes) {
      error_ = Error{.code = ErrorCode::kStorage,
                     .message = "out of memory while its header was read",
                     .source = objects_[i]->name(),
                     .system_errno = ENOMEM};
      done_.notify_one();
      return std::nullopt;
    }
    std::copy_n(head.bytes.get(), head.have, bytes.get());
    head.bytes = std::move(bytes);
    taken_ += head.need;
    todo_.pop_front();
    return ReadRequest{.source = objects_[i].get(),
                       .offset = head.have,
                       .length = head.need - head.have,
                       .wanted = head.need - head.have,
                       .into = head.bytes.get() + head.have,
                       .id = static_cast<std::uint32_t>(i)};
  }

  void complete(const ReadRequest& request, Result<ReadEffort> result) override {
    Head& head = heads_[request.id];
    auto outcome = result.ok() ? take(request.id, head) : Result<std::uint64_t>(std::move(result).error());
    const std::lock_guard lock(mutex_);
    taken_ -= head.need;
    if (!outcome.ok()) {
      if (!error_) error_ = std::move(outcome).error().at(objects_[request.id]->name());
    } else if (*outcome > head.have) {
      head.need = *outcome;
      todo_.push_front(request.id);
    } else {
      head.bytes.reset();
      --left_;
    }
    changed_ = true;
    done_.notify_one();
  }

  // Waits for an end. `wake` is called when the reader may have something to pull again.
  template <typename Wake>
  Status wait(const std::atomic<bool>& cancelled, const Wake& wake) {
    std::unique_lock lock(mutex_);
    while (left_ > 0 && !error_) {
      if (cancelled.load(std::memory_order_acquire)) {
        return Error{.code = ErrorCode::kClosed, .message = "opening was given up"};
      }
      done_.wait_for(lock, kCancelCheck);
      if (std::exchange(changed_, false)) {
        lock.unlock();
        wake();
        lock.lock();
      }
    }
    if (error_) return *error_;
    return Ok{};
  }

 private:
  struct Head {
    std::unique_ptr<std::byte[]> bytes;
    std::uint64_t have = 0;
    std::uint64_t need = 0;
  };

  Result<std::uint64_t> take(std::size_t i, Head& head) {
    const auto size = objects_[i]->size();
    head.have = std::min(head.need, size);
    try {
      auto needed = consumer_.take(i, {head.bytes.get(), head.have});
      if (needed.ok() && *needed > size) {
        return Error{.code = ErrorCode::kTruncated,
                     .message = "the object ends inside its header",
                     .expected = *needed,
                     .got = size};
      }
      return needed;
    } catch (const std::bad_alloc&) {
      return Error{
          .code = ErrorCode::kStorage, .message = "out of memory while its header was read", .system_errno = ENOMEM};
    }
  }

  const std::vector<std::shared_ptr<HttpObject>>& objects_;
  HeadConsumer& consumer_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::vector<Head> heads_;
  std::deque<std::size_t> todo_;
  std::size_t left_;
  std::uint64_t taken_ = 0;
  bool changed_ = false;
  std::optional<Error> error_;
};

}  // namespace

Status read_heads(const std::vector<std::shared_ptr<HttpObject>>& objects, std::uint64_t speculative_bytes,
                  HttpConnections& connections, HeadConsumer& consumer, LogSink& log,
                  const std::atomic<bool>& cancelled) {
  if (objects.empty()) return Ok{};
  Heads heads(objects, speculative_bytes, consumer);
  // As many at a time as there are: each is one round trip.
  HttpReaderOptions options;
  options.most_concurrency = std::min<std::uint32_t>(static_cast<std::uint32_t>(objects.size()), 64);
  options.start_concurrency = options.most_concurrency;
  auto reader = make_http_reader(options, connections, nullptr, log);
  if (auto started = reader->start(heads); !started) return started;
  auto status = heads.wait(cancelled, [&] { reader->wake(); });
  reader->stop();
  return status;
}

RemotePart::~RemotePart() {
  if (thread_.joinable()) thread_.join();
}

void RemotePart::add(std::size_t position, std::shared_ptr<HttpObject> object) {
  positions.push_back(position);
  objects.push_back(std::move(object));
}

void RemotePart::start(HttpConnections& connections, HeadConsumer& consumer, LogSink& log,
                       const std::atomic<bool>& cancelled) {
  if (objects.empty()) return;
  const auto run = [this, &connections, &consumer, &log, &cancelled] {
    try {
      status_ = read_heads(objects, kSpeculativeBytes, connections, consumer, log, cancelled);
    } catch (const std::bad_alloc&) {
      status_ = Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM};
    }
  };
  if (auto started = start_core_thread(thread_, "ws-heads", run); !started) status_ = std::move(started);
}

Status RemotePart::finish() {
  if (thread_.joinable()) thread_.join();
  return std::move(status_);
}

}  // namespace weightstream
