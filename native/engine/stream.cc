#include "engine/stream.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>

namespace weightstream {
namespace {

// A batch is one item, or several small ones: few lock round trips, and little that is taken but not yet handed out.
constexpr std::uint64_t kBatchBytes = 2 << 20;
constexpr std::size_t kBatchItems = 64;

double seconds(Stream::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

// Bytes of a read that exist in its source.
std::uint64_t wanted_bytes(const PlanRead& read, const Source& source) {
  return std::min(read.range.end, source.size()) - read.range.begin;
}

}  // namespace

Stream::Stream(std::shared_ptr<const Sources> sources, Plan plan, const StreamOptions& options,
               Clock::time_point called)
    : sources_(std::move(sources)),
      plan_(std::move(plan)),
      called_(called),
      arenas_(*sources_, plan_, kept_share(options.memory_limit)),
      lanes_(*sources_, log_),
      process_(::getpid()),
      ready_(plan_.items.size(), options.file_order),
      admission_(plan_, lanes_, ready_, options.memory_limit - kept_share(options.memory_limit)),
      reads_left_of_source_(sources_->size(), 0),
      open_handles_(sources_->size()) {
  for (const auto& item : plan_.items) stats_.bytes_total += item.range.size();
  for (const auto& read : plan_.reads) ++reads_left_of_source_[read.source];
  for (std::uint32_t item = 0; item < plan_.items.size(); ++item) {
    if (plan_.reads_left[item] == 0) ready_.complete(item);
  }
}

Stream::~Stream() { close(); }

Result<std::unique_ptr<Stream>> Stream::start(std::shared_ptr<const Sources> sources, std::vector<PlanItem> items,
                                              StreamOptions options, Clock::time_point called) {
  if (options.memory_limit == 0) options.memory_limit = default_memory_limit();
  Plan plan = make_plan(std::move(items), plan_options(*sources, options.memory_limit));
  std::unique_ptr<Stream> stream(new Stream(std::move(sources), std::move(plan), options, called));
  if (auto begun = stream->begin(options); !begun) {
    stream->close();
    return std::move(begun).error();
  }
  return stream;
}

Status Stream::begin(const StreamOptions& options) {
  const auto open_all = [&]() -> Status {
    if (auto opened = lanes_.open(plan_, options, *this); !opened) return opened;
    for (const auto& [source, reason] : lanes_.reasons()) {
      if (auto opened = arenas_.open(source, lanes_.of(source).kind); !opened) return opened;
    }
    return Ok{};
  };
  if (auto opened = open_all(); !opened) {
    arenas_.drop();  // nothing is held in them yet
    return opened;
  }
  arenas_.declare_holds();
  return lanes_.start(options);
}

std::optional<ReadRequest> Stream::pull(Lane& lane) {
  const auto read = admit(lane);
  if (!read) return std::nullopt;
  // Outside of the lock: the kernel has work to do here.
  const PlanRead& plan = plan_.reads[*read];
  keep_open(plan.source);
  arenas_.prepare(plan);
  const Source& source = sources_->at(plan.source);
  return ReadRequest{.source = &source,
                     .offset = plan.range.begin,
                     .length = plan.range.size(),
                     .wanted = wanted_bytes(plan, source),
                     .into = arenas_.at(plan),
                     .id = *read};
}

std::optional<std::uint32_t> Stream::admit(Lane& lane) {
  const std::lock_guard lock(mutex_);
  if (closed_ || error_) return std::nullopt;
  const auto read = admission_.next(lane);
  if (!read) account_blocked();
  return read;
}

// Keeps the file of a read open from its first read to its last, whatever happens to its name meanwhile. Not under the
// lock: opening may take as long as the file server likes.
void Stream::keep_open(std::uint32_t source) {
  const LocalFile* file = sources_->local(source);
  if (file == nullptr) return;
  {
    const std::lock_guard lock(mutex_);
    if (open_handles_[source]) return;
  }
  // A failure is met, and reported, by the reader, which asks for the handle again.
  auto opened = file->handle();
  if (!opened) return;
  const std::lock_guard lock(mutex_);
  if (reads_left_of_source_[source] > 0) open_handles_[source] = std::move(*opened);
}

void Stream::complete(const Lane& lane, std::uint32_t read, Result<ReadEffort> result) {
  const PlanRead& plan = plan_.reads[read];
  // After a failure nobody knows whether a device still writes there: those blocks are held until the arena goes.
  if (result.ok()) arenas_.release(plan);
  const std::lock_guard lock(mutex_);
  if (--reads_left_of_source_[plan.source] == 0) open_handles_[plan.source].reset();
  if (!result.ok()) {
    if (!error_ && !closed_) error_ = std::move(result).error();
    account_blocked();
    ready_changed_.notify_all();
    return;
  }
  ++stats_.reads;
  stats_.retries += result->retries;
  const std::uint64_t bytes = wanted_bytes(plan, sources_->at(plan.source));
  stats_.bytes_read += bytes;
  stats_.bytes_by_reader[static_cast<std::size_t>(lane.kind)] += bytes;
  if (error_) return;  // it comes after the end
  admission_.give_back(plan.wasted);
  for (auto item = plan.first_item; item < plan.first_item + plan.items; ++item) {
    if (plan_.reads_left[item] > 0 && --plan_.reads_left[item] == 0) ready_.complete(item);
  }
  account_blocked();
  if (consumer_waits_ && ready_.any()) ready_changed_.notify_one();
  if (plan.wasted > 0) admission_.wake_starved();
}

void Stream::started(Lane& lane) {
  const std::lock_guard lock(mutex_);
  lane.may_be_woken = true;
  lane.wake_if_starved();
}

// Precondition: mutex_ is held. Reading waits for the consumer while a read finds no room and the consumer has
// something to take.
void Stream::account_blocked() {
  const bool counts = admission_.out_of_room() && !closed_ && !error_ && ready_.any() && !consumer_waits_;
  if (counts == blocked_since_.has_value()) return;
  if (counts) {
    blocked_since_ = Clock::now();
  } else {
    stats_.wait_consumer_seconds += seconds(Clock::now() - *blocked_since_);
    blocked_since_.reset();
  }
}

Result<Stream::Next> Stream::next(std::vector<ReadyItem>& batch, Clock::duration patience) {
  if (::getpid() != process_) {
    return Error{.code = ErrorCode::kClosed,
                 .message = "this stream was started in process " + std::to_string(process_) +
                            ", and its threads did not survive the fork; open a stream of its own in this process"};
  }
  std::unique_lock lock(mutex_);
  if (closed_) return Error{.code = ErrorCode::kClosed, .message = "the stream is closed"};
  if (consumer_inside_) {
    return Error{.code = ErrorCode::kClosed,
                 .message = "another thread is in next() of this stream; one stream has one consumer"};
  }
  if (!error_ && !ready_.all_taken() && !ready_.any()) {
    consumer_inside_ = consumer_waits_ = true;
    const auto begin = Clock::now();
    ready_changed_.wait_until(lock, begin + patience, [this] { return error_ || closed_ || ready_.any(); });
    stats_.wait_storage_seconds += seconds(Clock::now() - begin);
    consumer_inside_ = consumer_waits_ = false;
  }
  if (closed_ || !ready_.any()) {
    if (error_) return *error_;
    if (closed_) return Error{.code = ErrorCode::kClosed, .message = "the stream was closed by another thread"};
    return ready_.all_taken() ? Next::kEnd : Next::kNotYet;
  }

  const std::size_t before = batch.size();
  std::uint64_t bytes = 0;
  do {
    const auto item = ready_.take();
    const PlanItem& plan = plan_.items[item];
    batch.push_back({item, arenas_.lease(plan)});
    bytes += plan.range.size();
  } while (ready_.any() && batch.size() - before < kBatchItems &&
           bytes + plan_.items[ready_.front()].range.size() <= kBatchBytes);

  const double now = seconds(Clock::now() - called_);
  if (stats_.items == 0) stats_.first_item_seconds = now;
  stats_.seconds = now;
  stats_.items += batch.size() - before;
  stats_.bytes += bytes;
  admission_.taken(bytes);
  account_blocked();
  admission_.wake_starved();
  return Next::kItems;
}

void Stream::close() {
  if (::getpid() != process_) {
    // After a fork the threads live in the parent only, and the lock may have been theirs at that moment: nothing here
    // can be locked or joined. What they own is left alone.
    lanes_.abandon();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    account_blocked();
  }
  ready_changed_.notify_all();
  // With descriptors and buffers: whoever closed the stream may keep the object for its numbers.
  lanes_.stop();
  // Readers are still now. What was never read or handed out will never be: its holds go, so that blocks it shares
  // with items that live on can go when those do.
  arenas_.end_reuse();
  admission_.drop_rest([this](std::uint32_t read) { arenas_.release(plan_.reads[read]); });
  for (std::uint32_t item = 0; item < plan_.items.size(); ++item) {
    if (ready_.taken(item)) continue;
    [[maybe_unused]] const Lease dropped = arenas_.lease(plan_.items[item]);
  }
  arenas_.drop();
  open_handles_.assign(open_handles_.size(), nullptr);
}

StreamStats Stream::stats() const {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (::getpid() == process_) lock.lock();  // see close()
  StreamStats stats = stats_;
  stats.peak_host_bytes = admission_.peak();
  const auto now = Clock::now();
  if (!closed_ && !error_ && !ready_.all_taken()) stats.seconds = seconds(now - called_);
  if (blocked_since_) stats.wait_consumer_seconds += seconds(now - *blocked_since_);
  return stats;
}

}  // namespace weightstream
