#include "storage/uring_reader.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/checked.h"
#include "base/core_thread.h"
#include "storage/concurrency.h"
#include "storage/local_file.h"
#include "storage/reading_mark.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kDirectAlignment = 4096;
constexpr std::uint64_t kWakeTag = UINT64_MAX - 1;
// A read that is refused this often in a row, for now each time, is refused for good.
constexpr std::uint32_t kMostRefusals = 1000;

class UringReader final : public Reader {
 public:
  UringReader(UringOptions options, LogSink& log)
      : options_(std::move(options)), log_(log), concurrency_(options_.start_concurrency, options_.most_concurrency) {}
  ~UringReader() override { stop(); }

  Status start(ReadFeed& feed) override {
    // Room for every read, a cancel for each, and the wake read: the queue can never be full.
    auto ring = options_.create_ring(2 * options_.most_concurrency + 1);
    if (!ring) return std::move(ring).error();
    wake_fd_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC));
    fallback_wake_fd_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC));
    if (!wake_fd_ || !fallback_wake_fd_) {
      return Error{.code = ErrorCode::kStorage,
                   .message = std::string("cannot create an eventfd: ") + std::strerror(errno),
                   .system_errno = errno};
    }
    ring_ = std::move(*ring);
    feed_ = &feed;
    places_.resize(options_.most_concurrency);
    for (std::size_t place = places_.size(); place > 0; --place) free_.push_back(place - 1);
    return start_core_thread(thread_, "ws-uring", [this] { run(); });
  }

  void wake() override {
    const std::uint64_t one = 1;
    // Fails only when the counter is full, and then the thread is about to wake anyway.
    for (const auto* fd : {&wake_fd_, &fallback_wake_fd_}) {
      [[maybe_unused]] const auto written = ::write(fd->get(), &one, sizeof one);
    }
  }

  void stop() override {
    if (!thread_.joinable()) return;
    stopping_.store(true, std::memory_order_release);
    wake();
    thread_.join();
  }

 private:
  // A request in flight.
  struct Place {
    ReadRequest request;
    std::shared_ptr<LocalFile::Handle> handle;
    ReadingMark mark = {};
    std::uint64_t done = 0;
    std::uint32_t retries = 0;
    std::uint32_t refusals = 0;  // in a row
    bool direct = false;
    bool busy = false;
  };

  void run() {
    queue_wake();
    std::vector<IoRing::Completion> completions;
    bool cancelled = false;
    while (true) {
      if (stopping_.load(std::memory_order_acquire)) {
        // stop() wrote to the eventfd, so the wake read completes too; only then does nothing write to this object.
        if (in_flight_ == 0 && !wake_queued_) return;
        if (!cancelled) cancel_all();
        cancelled = true;
      } else {
        fill();
      }
      completions.clear();
      if (const int error = ring_->submit_and_wait(completions); error != 0) {
        // The ring itself is broken: nothing in flight can be trusted or awaited any more.
        fail_all(error);
        fail_what_comes(error);
        return;
      }
      for (const auto& completion : completions) {
        if (completion.tag == kWakeTag) {
          wake_queued_ = false;
          if (!stopping_.load(std::memory_order_acquire)) queue_wake();
        } else {
          advance(completion);
        }
      }
    }
  }

  void queue_wake() {
    wake_queued_ = true;
    ring_->queue_read(wake_fd_.get(), reinterpret_cast<std::byte*>(&wake_count_), sizeof wake_count_, 0, kWakeTag);
  }

  void fill() {
    while (in_flight_ < concurrency_.limit()) {
      auto request = feed_->pull();
      if (!request) {
        concurrency_.starved(Concurrency::Clock::now());
        return;
      }
      const auto& file = static_cast<const LocalFile&>(*request->source);
      auto handle = file.handle();
      if (!handle) {
        feed_->complete(*request, std::move(handle).error());
        continue;
      }
      const std::size_t index = free_.back();
      free_.pop_back();
      ++in_flight_;
      Place& place = places_[index];
      place = {.request = *request, .handle = std::move(*handle), .busy = true};
      place.direct = !through_cache(file, place) && !place.handle->direct_refused && open_direct(file, *place.handle);
      queue(index);
    }
  }

  // Two that begin at the same time both mark first, so that at least one sees the other.
  bool through_cache(const LocalFile& file, Place& place) {
    if (!options_.heeds_others) return false;
    place.mark = ReadingMark(place.handle);
    if (!place.handle->shared && others_read(*place.handle)) {
      place.handle->shared = true;
      log_.write_once("read by others", LogLevel::kInfo,
                      file.name() + ": others read it at the same time; reading through the page cache from here on");
    }
    return place.handle->shared;
  }

  bool open_direct(const LocalFile& file, LocalFile::Handle& handle) {
    const int error = file.open_direct(handle);
    if (error != 0) log_buffered(file, error);
    return error == 0;
  }

  void log_buffered(const LocalFile& file, int error) {
    log_.write_once(
        "O_DIRECT", LogLevel::kInfo,
        file.name() + ": O_DIRECT is refused here (" + std::strerror(error) + "); reading through the page cache");
  }

  void queue(std::size_t index) {
    const Place& place = places_[index];
    const ReadRequest& request = place.request;
    // O_DIRECT wants whole blocks, also for the block in which the file ends; a buffered read must not ask past it.
    const std::uint64_t length = (place.direct ? request.length : request.wanted) - place.done;
    const int fd = place.direct ? place.handle->direct.get() : place.handle->buffered.get();
    ring_->queue_read(fd, request.into + place.done, static_cast<std::uint32_t>(length), request.offset + place.done,
                      index);
  }

  void advance(const IoRing::Completion& completion) {
    const auto index = static_cast<std::size_t>(completion.tag);
    Place& place = places_[index];
    const auto& file = static_cast<const LocalFile&>(*place.request.source);
    if (completion.result < 0) {
      const int error = -completion.result;
      if (stopping_.load(std::memory_order_acquire)) return finish(index, stopped(place));
      if ((error == EINTR || error == EAGAIN) && ++place.refusals < kMostRefusals) {
        ++place.retries;
        if (error == EAGAIN) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        return queue(index);
      }
      if (place.direct && (error == EINVAL || error == EOPNOTSUPP || error == ENOMEM)) {
        // Out of memory is this read's trouble; the others say that the filesystem will never do it.
        if (error != ENOMEM && !place.handle->direct_refused.exchange(true)) log_buffered(file, error);
        place.direct = false;
        return queue(index);
      }
      return finish(index, file.read_error(error, place.request.range()));
    }
    const auto got = static_cast<std::uint64_t>(completion.result);
    if (place.done + got >= place.request.wanted) {
      if (auto same = file.check_unchanged(place.handle->buffered.get()); !same) {
        return finish(index, std::move(same).error());
      }
      return finish(index, ReadEffort{place.retries});
    }
    if (got == 0) return finish(index, file.truncated(place.request.range(), place.request.offset + place.done));
    if (stopping_.load(std::memory_order_acquire)) return finish(index, stopped(place));
    // A short completion is resumed; with O_DIRECT from the last whole block, which is then read again. Where that is
    // no progress (a file that shrank ends here) the rest is read through the page cache, which stops at any byte.
    const std::uint64_t resume = align_down(place.done + got, kDirectAlignment);
    if (place.direct && resume == place.done) place.direct = false;
    place.done = place.direct ? resume : place.done + got;
    place.refusals = 0;
    ++place.retries;
    queue(index);
  }

  static Error stopped(const Place& place) {
    return {.code = ErrorCode::kClosed,
            .message = "the stream was closed while this range was being read",
            .source = place.request.source->name(),
            .range = place.request.range()};
  }

  void finish(std::size_t index, Result<ReadEffort> result) {
    Place& place = places_[index];
    const ReadRequest request = place.request;
    place = {};
    free_.push_back(index);
    --in_flight_;
    if (result.ok()) concurrency_.completed(request.wanted, Concurrency::Clock::now());
    feed_->complete(request, std::move(result));
  }

  void cancel_all() {
    for (std::size_t index = 0; index < places_.size(); ++index) {
      if (places_[index].busy) ring_->queue_cancel(index);
    }
  }

  void fail_all(int error) {
    // Closing the ring does not wait for the device: it may write to these places for a while yet. Their memory is not
    // used again for another read, because the reads fail.
    ring_.reset();
    for (std::size_t index = 0; index < places_.size(); ++index) {
      if (!places_[index].busy) continue;
      const auto& file = static_cast<const LocalFile&>(*places_[index].request.source);
      finish(index, file.read_error(error, places_[index].request.range()));
    }
  }

  // Requests that are not pulled would be waited for, so they are pulled and failed until stop().
  void fail_what_comes(int error) {
    while (!stopping_.load(std::memory_order_acquire)) {
      while (const auto request = feed_->pull()) {
        feed_->complete(*request, static_cast<const LocalFile&>(*request->source).read_error(error, request->range()));
      }
      // Returns after a wake() that came since the last one, at once if it came already. An eventfd of its own: what
      // is left of the ring may still read the other.
      std::uint64_t count = 0;
      while (::read(fallback_wake_fd_.get(), &count, sizeof count) < 0 && errno == EINTR) {
      }
    }
  }

  UringOptions options_;
  LogSink& log_;
  ReadFeed* feed_ = nullptr;
  std::unique_ptr<IoRing> ring_;
  FileDescriptor wake_fd_;
  FileDescriptor fallback_wake_fd_;  // for when the ring is broken
  std::uint64_t wake_count_ = 0;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;

  // Only the thread touches what follows.
  Concurrency concurrency_;
  std::vector<Place> places_;
  std::vector<std::size_t> free_;
  std::uint32_t in_flight_ = 0;
  bool wake_queued_ = false;
};

}  // namespace

std::unique_ptr<Reader> make_uring_reader(UringOptions options, LogSink& log) {
  return std::make_unique<UringReader>(std::move(options), log);
}

}  // namespace weightstream
