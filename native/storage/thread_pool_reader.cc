#include "storage/thread_pool_reader.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <list>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "base/core_thread.h"
#include "storage/concurrency.h"
#include "storage/local_file.h"
#include "storage/local_probe.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace weightstream {
namespace {

// A blocking call cannot be cancelled, so a read is done in pieces that are short even on slow storage.
constexpr std::uint64_t kPieceBytes = std::uint64_t{2} << 20;

// What every blocking read of a local file shares: the handle, the pieces, the check that the file is still the same.
class LocalRead : public BlockingRead {
 public:
  Result<ReadEffort> execute(const ReadRequest& request, const std::atomic<bool>& stopping) final {
    const auto& file = static_cast<const LocalFile&>(*request.source);
    auto handle = file.handle();
    if (!handle) return std::move(handle).error();
    const int fd = (*handle)->buffered.get();
    ReadEffort effort;
    for (std::uint64_t done = 0; done < request.wanted;) {
      if (stopping.load(std::memory_order_acquire)) return stopped_read(request);
      const std::uint64_t bytes = std::min(kPieceBytes, request.wanted - done);
      auto resumed = piece(file, fd, request.into + done, request.offset + done, bytes);
      if (!resumed) {
        Error error = std::move(resumed).error();
        if (error.code == ErrorCode::kTruncated && error.got && error.range) {
          error = file.truncated(request.range(), error.range->begin + *error.got);
        } else {
          error.range = request.range();
        }
        return error;
      }
      effort.retries += *resumed;
      done += bytes;
    }
    if (auto same = file.check_unchanged(fd); !same) return std::move(same).error();
    return effort;
  }

 private:
  // Returns how often it had to go on after a short read or an interruption.
  virtual Result<std::uint32_t> piece(const LocalFile& file, int fd, std::byte* into, std::uint64_t offset,
                                      std::uint64_t bytes) = 0;
};

class Pread final : public LocalRead {
  Result<std::uint32_t> piece(const LocalFile& file, int fd, std::byte* into, std::uint64_t offset,
                              std::uint64_t bytes) override {
    return file.read_exactly(fd, into, offset, bytes);
  }
};

class Populate final : public LocalRead {
  Result<std::uint32_t> piece(const LocalFile& file, int fd, std::byte* into, std::uint64_t offset,
                              std::uint64_t bytes) override {
    std::uint32_t resumed = 0;
    // What the page cache has costs the consumer less to touch than to be mapped ahead of that.
    if (cached_part(fd, offset, bytes) >= 1.0) return resumed;
    // Ask for all of it first, so that the storage sees one large read instead of a fault at a time.
    ::madvise(into, bytes, MADV_WILLNEED);
    while (::madvise(into, bytes, MADV_POPULATE_READ) != 0) {
      if (errno == EINTR) {
        ++resumed;
        continue;
      }
      if (errno == EINVAL) return resumed;  // before Linux 5.14; the pages then come at first touch
      const int error = errno == EFAULT || errno == EHWPOISON ? EIO : errno;
      if (auto same = file.check_unchanged(fd); !same) {
        return std::move(same).error();  // a page past a new end of file fails as EFAULT
      }
      return file.read_error(error, {offset, offset + bytes});
    }
    return resumed;
  }
};

class ThreadPoolReader final : public Reader {
 public:
  ThreadPoolReader(std::unique_ptr<BlockingRead> read, ThreadPoolOptions options)
      : read_(std::move(read)),
        thread_name_(options.thread_name),
        concurrency_(options.start_concurrency, options.most_concurrency) {}
  ~ThreadPoolReader() override { stop(); }

  Status start(ReadFeed& feed) override {
    feed_ = &feed;
    const std::lock_guard lock(mutex_);
    return grow();
  }

  void wake() override {
    {
      const std::lock_guard lock(mutex_);
      ++wakes_;
      starved_ = false;
    }
    work_.notify_all();
  }

  void stop() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_.store(true, std::memory_order_release);
    }
    work_.notify_all();
    // grow() adds no thread once stopping_ is set.
    for (auto& thread : threads_) {
      if (thread.joinable()) thread.join();
    }
  }

 private:
  // Precondition: mutex_ is held. Fails only when not even one thread can be started.
  Status grow() {
    while (!stopping_ && threads_.size() < concurrency_.limit()) {
      std::thread thread;
      if (auto started = start_core_thread(thread, thread_name_, [this] { run(); }); !started) {
        if (threads_.empty()) return started;
        return Ok{};  // fewer threads than wished for: slower, not wrong
      }
      threads_.push_back(std::move(thread));
    }
    return Ok{};
  }

  void run() {
    std::unique_lock lock(mutex_);
    while (true) {
      work_.wait(lock, [this] { return stopping_ || (!starved_ && active_ < concurrency_.limit()); });
      if (stopping_) return;
      const auto wakes = wakes_;
      ++active_;
      lock.unlock();
      const auto request = feed_->pull();
      if (!request) {
        lock.lock();
        --active_;
        // Somebody may have woken us between the empty pull and here.
        if (wakes == wakes_) starved_ = true;
        concurrency_.starved(Concurrency::Clock::now());
        continue;
      }
      auto result = execute(*request);
      const bool success = result.ok();
      feed_->complete(*request, std::move(result));
      lock.lock();
      --active_;
      if (success) {
        const auto before = concurrency_.limit();
        if (concurrency_.completed(request->wanted, Concurrency::Clock::now()) > before) {
          [[maybe_unused]] const auto grown = grow();  // cannot fail: this thread exists
          work_.notify_all();
        }
      }
    }
  }

  Result<ReadEffort> execute(const ReadRequest& request) {
    try {
      return read_->execute(request, stopping_);
    } catch (const std::bad_alloc&) {
      // Nobody above would catch it; this message needs no memory of its own.
      return Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM};
    }
  }

  std::unique_ptr<BlockingRead> read_;
  const char* const thread_name_;
  ReadFeed* feed_ = nullptr;
  std::mutex mutex_;
  std::condition_variable work_;
  std::list<std::thread> threads_;
  Concurrency concurrency_;
  std::uint32_t active_ = 0;
  std::uint64_t wakes_ = 0;
  bool starved_ = false;
  std::atomic<bool> stopping_ = false;
};

}  // namespace

Error stopped_read(const ReadRequest& request) {
  return {.code = ErrorCode::kClosed,
          .message = "the stream was closed while this range was being read",
          .source = request.source->name(),
          .range = request.range()};
}

std::unique_ptr<BlockingRead> make_pread() { return std::make_unique<Pread>(); }
std::unique_ptr<BlockingRead> make_populate() { return std::make_unique<Populate>(); }

std::unique_ptr<Reader> make_thread_pool_reader(std::unique_ptr<BlockingRead> read, ThreadPoolOptions options) {
  return std::make_unique<ThreadPoolReader>(std::move(read), options);
}

}  // namespace weightstream
