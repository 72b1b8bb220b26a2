#include "engine/stream.h"

#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <utility>

#include "engine/host_landing.h"

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
      lanes_(*sources_, log_),
      process_(::getpid()),
      ready_(plan_.items.size(), options.file_order),
      landing_(make_landing(options)),
      admission_(plan_, lanes_, *landing_),
      reads_left_of_source_(sources_->size(), 0),
      open_handles_(sources_->size()) {
  if (options.trace) trace_.emplace(called, plan_.reads.size());
  for (const auto& item : plan_.items) stats_.bytes_total += item.range.size();
  for (const auto& read : plan_.reads) ++reads_left_of_source_[read.source];
  for (std::uint32_t item = 0; item < plan_.items.size(); ++item) {
    if (plan_.reads_left[item] == 0) ready_.complete(item);
  }
}

Stream::~Stream() { close(); }

Result<std::unique_ptr<Stream>> Stream::start(std::shared_ptr<const Sources> sources, std::vector<PlanItem> items,
                                              StreamOptions options, Clock::time_point called) {
  if (options.memory_limit == 0) options.memory_limit = default_memory_limit(options);
  Plan plan = make_plan(std::move(items), plan_options(*sources, options));
  std::unique_ptr<Stream> stream(new Stream(std::move(sources), std::move(plan), options, called));
  if (auto begun = stream->begin(options); !begun) {
    stream->close();
    return std::move(begun).error();
  }
  return stream;
}

std::unique_ptr<Landing> Stream::make_landing(const StreamOptions& options) {
  Landing::Owner& owner = *this;
  if (!lands_on_device(options, plan_)) {
    return std::make_unique<HostLanding>(owner, *sources_, plan_, ready_, options.memory_limit);
  }
  auto landing = std::make_unique<DeviceLanding>(owner, plan_, ready_, *options.device, options.memory_limit, log_);
  device_ = landing.get();
  return landing;
}

Status Stream::begin(const StreamOptions& options) {
  if (auto opened = lanes_.open(plan_, options, *this); !opened) return opened;
  if (auto opened = landing_->open(lanes_); !opened) return opened;
  return lanes_.start(options);
}

std::optional<ReadRequest> Stream::pull(Lane& lane) {
  const auto read = admit(lane);
  if (!read) return std::nullopt;
  // Outside of the lock: the kernel has work to do here.
  const PlanRead& plan = plan_.reads[*read];
  keep_open(plan.source);
  const Source& source = sources_->at(plan.source);
  return ReadRequest{.source = &source,
                     .offset = plan.range.begin,
                     .length = plan.range.size(),
                     .wanted = wanted_bytes(plan, source),
                     .into = landing_->place(*read),
                     .id = *read,
                     .parts = landing_->parts(*read)};
}

std::optional<std::uint32_t> Stream::admit(Lane& lane) {
  const std::lock_guard lock(mutex_);
  if (closed_ || error_) return std::nullopt;
  auto read = admission_.next(lane);
  if (!read) {
    fail(std::move(read).error());
    return std::nullopt;
  }
  if (*read) ++reading_;
  if (*read && trace_) trace_->read_begins(**read);
  account_waits();
  return *read;
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
  {
    const std::lock_guard lock(mutex_);
    --reading_;
    if (trace_) trace_->read_ends(read, lane.kind, result.ok());
    if (--reads_left_of_source_[plan.source] == 0) open_handles_[plan.source].reset();
    if (!result.ok()) {
      landing_->give_up(read);
      fail(std::move(result).error());
      return;
    }
    ++stats_.reads;
    stats_.retries += result->retries;
    const std::uint64_t bytes =
        lane.kind == ReaderKind::kGds ? plan.range.size() - plan.wasted : wanted_bytes(plan, sources_->at(plan.source));
    stats_.bytes_read += bytes;
    stats_.bytes_by_reader[static_cast<std::size_t>(lane.kind)] += bytes;
    ++landing_reads_;
    account_waits();
  }
  landing_->arrived(read);
}

void Stream::landed(std::uint32_t read) {
  const PlanRead& plan = plan_.reads[read];
  const std::lock_guard lock(mutex_);
  --landing_reads_;
  if (trace_ && device_ != nullptr && lanes_.of(plan.source).kind != ReaderKind::kGds) trace_->copied(read);
  const bool room = landing_->settle(read);
  if (error_ || closed_) return;  // it comes after the end
  for (auto item = plan.first_item; item < plan.first_item + plan.items; ++item) {
    if (plan_.reads_left[item] > 0 && --plan_.reads_left[item] == 0) ready_.complete(item);
  }
  account_waits();
  if (consumer_waits_ && ready_.any()) ready_changed_.notify_one();
  if (room) admission_.wake_starved();
}

void Stream::failed(std::uint32_t read, Error error) {
  const PlanRead& plan = plan_.reads[read];
  const Source& source = sources_->at(plan.source);
  error = std::move(error).at(source.name());
  error.range = ByteRange{plan.range.begin, std::min(plan.range.end, source.size())};
  const std::lock_guard lock(mutex_);
  fail(std::move(error));
}

void Stream::made_room() {
  const std::lock_guard lock(mutex_);
  if (closed_ || error_) {  // the readers may be gone; nothing is read any more
    landing_->turn_down();
    return;
  }
  admission_.offer_room();
  account_waits();
}

// Precondition: mutex_ is held. The first error is the stream's.
void Stream::fail(Error error) {
  if (!error_ && !closed_) {
    error_ = std::move(error);
    // Nobody takes them any more, and the consumer may not look for long: others need what they hold.
    for (const auto read : admission_.take_admitted()) landing_->give_up(read);
    landing_->turn_down();
  }
  account_waits();
  ready_changed_.notify_all();
}

void Stream::started(Lane& lane) {
  const std::lock_guard lock(mutex_);
  lane.may_be_woken = true;
  lane.wake_if_starved();
}

// Precondition: mutex_ is held. Reading waits for the consumer while a read finds no room and the consumer has
// something to take. The consumer waits for the device while only copies are left, or while reading has to wait for the
// device and nothing else goes on, or copies do.
void Stream::account_waits() {
  const bool runs = !closed_ && !error_;
  const bool out_of_room = admission_.out_of_room();
  const bool by_device = out_of_room && landing_->bound() == Landing::Bound::kDevice;
  blocked_.set(runs && out_of_room && !by_device && ready_.any() && !consumer_waits_, stats_.wait_consumer_seconds);
  const bool device_holds_up = by_device ? landing_reads_ > 0 || reading_ == 0 : landing_reads_ > 0 && reading_ == 0;
  device_bound_.set(runs && consumer_waits_ && device_holds_up, stats_.wait_device_seconds);
}

void Stream::Span::set(bool holds, double& total) {
  if (holds == since.has_value()) return;
  if (holds) {
    since = Clock::now();
  } else {
    total += so_far(Clock::now());
    since.reset();
  }
}

double Stream::Span::so_far(Clock::time_point now) const { return since ? seconds(now - *since) : 0; }

DeviceGroups::Span Stream::due(std::uint64_t most_bytes) const {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (device_ == nullptr || ::getpid() != process_) return {};
  lock.lock();
  if (closed_ || error_) return {};
  return device_->window().due(most_bytes);
}

Status Stream::provide(const std::vector<std::uint64_t>& addresses, ForeignStream allocated_on) {
  if (device_ == nullptr || addresses.empty()) return Ok{};
  const Error closed{.code = ErrorCode::kClosed, .message = "the stream is closed"};
  if (::getpid() != process_) return closed;
  const std::lock_guard open(closing_);
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return closed;
  }
  // Not under the lock: the driver may wait for room in the foreign stream.
  auto order = device_->after(allocated_on);
  const std::lock_guard lock(mutex_);
  if (!order) {
    fail(order.error());
    return std::move(order).error();
  }
  for (const auto address : addresses) device_->window().provide(address, *order);
  admission_.made_room();
  account_waits();
  admission_.wake_starved();
  return Ok{};
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
    account_waits();
    const auto begin = Clock::now();
    const double device_before = stats_.wait_device_seconds;
    ready_changed_.wait_until(lock, begin + patience, [this] { return error_ || closed_ || ready_.any(); });
    consumer_inside_ = consumer_waits_ = false;
    account_waits();
    const double waited = seconds(Clock::now() - begin);
    const double for_device = stats_.wait_device_seconds - device_before;
    stats_.wait_storage_seconds += waited - for_device;
    if (trace_) trace_->waited(waited, for_device);
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
    batch.push_back({item, landing_->hand_out(item)});
    if (trace_) trace_->handed_over(item);
    bytes += plan.range.size();
  } while (ready_.any() && batch.size() - before < kBatchItems &&
           bytes + plan_.items[ready_.front()].range.size() <= kBatchBytes);

  const double now = seconds(Clock::now() - called_);
  if (stats_.items == 0) stats_.first_item_seconds = now;
  stats_.seconds = now;
  stats_.items += batch.size() - before;
  stats_.bytes += bytes;
  admission_.made_room();
  account_waits();
  admission_.wake_starved();
  return Next::kItems;
}

void Stream::close(std::shared_ptr<void> destinations) {
  if (::getpid() != process_) {
    // After a fork the threads live in the parent only, and the lock may have been theirs at that moment: nothing here
    // can be locked or joined. What they own is left alone.
    lanes_.abandon();
    static_cast<void>(landing_.release());
    if (destinations) static_cast<void>(new std::shared_ptr<void>(std::move(destinations)));  // the parent's
    return;
  }
  const std::lock_guard closing(closing_);
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    account_waits();
  }
  ready_changed_.notify_all();
  // With descriptors and buffers: whoever closed the stream may keep the object for its numbers.
  lanes_.stop();
  landing_->close(admission_.take_rest(), ready_, std::move(destinations));
  open_handles_.assign(open_handles_.size(), nullptr);
}

std::optional<std::pair<std::string, std::string>> Stream::not_pinned() const {
  if (device_ == nullptr || ::getpid() != process_) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (device_->not_pinned().empty()) return std::nullopt;
  return std::pair(device_->device(), device_->not_pinned());
}

std::vector<TraceEvent> Stream::trace() const {
  if (!trace_ || ::getpid() != process_) return {};
  const std::lock_guard lock(mutex_);
  return trace_->events();
}

StreamStats Stream::stats() const {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (::getpid() == process_) lock.lock();  // see close()
  StreamStats stats = stats_;
  stats.peak_host_bytes = landing_ ? landing_->peak_host_bytes() : 0;
  if (device_ != nullptr) stats.peak_device_bytes = device_->window().peak();
  const auto now = Clock::now();
  if (!closed_ && !error_ && !ready_.all_taken()) stats.seconds = seconds(now - called_);
  stats.wait_consumer_seconds += blocked_.so_far(now);
  stats.wait_device_seconds += device_bound_.so_far(now);
  return stats;
}

}  // namespace weightstream
