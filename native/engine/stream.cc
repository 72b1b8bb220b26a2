#include "engine/stream.h"

#include <unistd.h>

#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "memory/system_memory.h"

namespace weightstream {
namespace {

constexpr std::uint64_t kMiB = 1 << 20;
constexpr std::uint64_t kDefaultMemoryLimit = std::uint64_t{4} << 30;
// A batch is one item, or several small ones: few lock round trips, and little that is taken but not yet handed out.
constexpr std::uint64_t kBatchBytes = 2 * kMiB;
constexpr std::size_t kBatchItems = 64;
// How far one lane's pull may run ahead of another lane, in reads.
constexpr std::size_t kMostAdmitted = 64;
// An object store is read over many connections, each of them slow: the tail has to be cut for all of them.
constexpr std::uint32_t kRemoteTailReads = 64;

double seconds(Stream::Clock::duration duration) { return std::chrono::duration<double>(duration).count(); }

std::uint64_t default_memory_limit() {
  const std::uint64_t available = available_memory();
  if (available == 0) return kDefaultMemoryLimit;
  return std::clamp(available / 4, 64 * kMiB, kDefaultMemoryLimit);
}

// The part of the memory limit that dead tensors' blocks may take while they wait for the next read.
std::uint64_t kept_share(std::uint64_t memory_limit) { return std::min(memory_limit / 4, 256 * kMiB); }

// A small limit has to hold several reads, or the bound would stop and drain the storage.
PlanOptions plan_options(const Sources& sources, std::uint64_t memory_limit) {
  PlanOptions options;
  for (std::size_t source = 0; source < sources.size(); ++source) {
    const bool remote = sources.remote(source) != nullptr;
    options.remote.push_back(remote);
    if (remote) options.tail_reads = kRemoteTailReads;
  }
  while (options.read_bytes > 256 << 10 && options.read_bytes * 32 > memory_limit) options.read_bytes /= 2;
  options.least_read_bytes = std::min(options.least_read_bytes, options.read_bytes);
  return options;
}

}  // namespace

class Stream::Lane final : public ReadFeed {
 public:
  Lane(Stream& stream, ReaderKind of_kind, std::unique_ptr<Reader> its_reader)
      : kind(of_kind), reader(std::move(its_reader)), stream_(stream) {}

  std::optional<ReadRequest> pull() override {
    const auto read = stream_.pull(*this);
    if (!read) return std::nullopt;
    // Outside of the stream's lock: the kernel has work to do here.
    const PlanRead& plan = stream_.plan_.reads[*read];
    stream_.keep_open(plan.source);
    stream_.arenas_[plan.source]->recycle_into(plan.range);
    return stream_.request_for(*read);
  }
  void complete(const ReadRequest& request, Result<ReadEffort> result) override {
    stream_.complete(kind, request.id, std::move(result));
  }

  ReaderKind kind;
  std::unique_ptr<Reader> reader;
  std::deque<std::uint32_t> admitted;  // reads of this lane that another lane's pull came across; under the lock
  bool starved = false;                // its last pull found nothing; under the lock

 private:
  Stream& stream_;
};

Stream::Stream(std::shared_ptr<const Sources> sources, Plan plan, StreamOptions options, Clock::time_point called)
    : sources_(std::move(sources)),
      plan_(std::move(plan)),
      file_order_(options.file_order),
      called_(called),
      arenas_(sources_->size()),
      open_handles_(sources_->size()),
      lane_of_source_(sources_->size(), 0),
      process_(::getpid()),
      pool_(std::make_shared<BlockPool>(kept_share(options.memory_limit))),
      budget_(options.memory_limit - kept_share(options.memory_limit)),
      reads_left_of_source_(sources_->size(), 0),
      complete_(plan_.items.size(), false),
      handed_out_(plan_.items.size(), false) {}

Result<std::unique_ptr<Stream>> Stream::start(std::shared_ptr<const Sources> sources, std::vector<PlanItem> items,
                                              StreamOptions options, Clock::time_point called) {
  if (options.memory_limit == 0) options.memory_limit = default_memory_limit();
  Plan plan = make_plan(std::move(items), plan_options(*sources, options.memory_limit));
  std::unique_ptr<Stream> stream(new Stream(std::move(sources), std::move(plan), options, called));
  for (const auto& item : stream->plan_.items) stream->stats_.bytes_total += item.range.size();
  for (const auto& read : stream->plan_.reads) ++stream->reads_left_of_source_[read.source];
  {
    const std::lock_guard lock(stream->mutex_);
    for (std::uint32_t item = 0; item < stream->plan_.items.size(); ++item) {
      if (stream->plan_.reads_left[item] == 0) stream->finish_item(item);
    }
  }
  if (auto opened = stream->open_lanes(options); !opened) {
    stream->arenas_.assign(stream->arenas_.size(), nullptr);  // nothing is held in them yet
    return std::move(opened).error();
  }
  stream->declare_holds();
  if (auto started = stream->start_readers(options); !started) {
    stream->close();
    return std::move(started).error();
  }
  return stream;
}

Status Stream::start_readers(const StreamOptions& options) {
  for (auto& lane : lanes_) {
    auto started = lane->reader->start(*lane);
    if (!started && lane->kind == ReaderKind::kUring && options.backend == Backend::kAuto) {
      const std::string reason = started.error().message + ": parallel pread";
      log_.write(LogLevel::kInfo, reason);
      for (auto& [source, why] : reasons_) {
        if (lanes_[lane_of_source_[source]] == lane) why = reason;
      }
      lane->kind = ReaderKind::kPread;
      lane->reader = make_reader(lane->kind, 0, options);
      started = lane->reader->start(*lane);
    }
    if (!started) return started;
  }
  return Ok{};
}

Status Stream::open_lanes(const StreamOptions& options) {
  LocalProbe probe(options.backend);
  for (std::uint32_t source = 0; source < arenas_.size(); ++source) {
    if (reads_left_of_source_[source] == 0) continue;
    auto choice = choose_reader(source, probe);
    if (!choice) return std::move(choice).error();
    reasons_.emplace_back(source, choice->reason);
    log_.write(LogLevel::kDebug, sources_->at(source).name() + ": " + choice->reason);
    if (choice->fallback) log_.write_once(choice->reason, LogLevel::kInfo, choice->reason);
    if (auto arena = open_arena(source, choice->kind); !arena) return arena;
    const auto same_kind = [&](const auto& lane) { return lane->kind == choice->kind; };
    auto lane = std::find_if(lanes_.begin(), lanes_.end(), same_kind);
    if (lane == lanes_.end()) {
      lanes_.push_back(std::make_unique<Lane>(*this, choice->kind, make_reader(choice->kind, source, options)));
      lane = std::prev(lanes_.end());
    }
    lane_of_source_[source] = static_cast<std::uint8_t>(lane - lanes_.begin());
  }
  return Ok{};
}

Result<ReaderChoice> Stream::choose_reader(std::uint32_t source, LocalProbe& probe) const {
  const LocalFile* file = sources_->local(source);
  if (file == nullptr) return ReaderChoice{ReaderKind::kHttp, "object: ranges over HTTP/1.1, many connections"};
  return plan_.reads.size() == 1 ? probe.choose_for_one_read(*file) : probe.choose(*file);
}

std::unique_ptr<Reader> Stream::make_reader(ReaderKind kind, std::uint32_t source, const StreamOptions& options) {
  const HttpObject* object = sources_->remote(source);
  return options.make_reader(kind, {.concurrency = options.concurrency,
                                    .log = log_,
                                    .connections = sources_->connections.get(),
                                    .host = object == nullptr ? nullptr : &object->host()});
}

Status Stream::open_arena(std::uint32_t source, ReaderKind kind) {
  const Source& file = sources_->at(source);
  if (kind == ReaderKind::kMmap) {
    auto handle = sources_->local(source)->handle();
    if (!handle) return std::move(handle).error();
    auto arena = Arena::map_file((*handle)->buffered.get(), file.size());
    if (!arena) return std::move(arena).error().at(file.name());
    arenas_[source] = std::move(*arena);
  } else {
    auto arena = Arena::reserve(file.size(), pool_);
    if (!arena) return std::move(arena).error().at(file.name());
    arenas_[source] = std::move(*arena);
  }
  return Ok{};
}

void Stream::declare_holds() {
  for (const auto& extent : plan_.extents) arenas_[extent.source]->advise_huge(extent.range);
  for (const auto& item : plan_.items) {
    if (!item.range.empty()) arenas_[item.source]->hold(item.range);
  }
  for (const auto& read : plan_.reads) arenas_[read.source]->hold(read.range);
}

Stream::~Stream() { close(); }

ReadRequest Stream::request_for(std::uint32_t read) const {
  const PlanRead& plan = plan_.reads[read];
  const Source& file = sources_->at(plan.source);
  return {.source = &file,
          .offset = plan.range.begin,
          .length = plan.range.size(),
          .wanted = std::min(plan.range.end, file.size()) - plan.range.begin,
          .into = arenas_[plan.source]->at(plan.range.begin),
          .id = read};
}

std::optional<std::uint32_t> Stream::pull(Lane& lane) {
  const std::lock_guard lock(mutex_);
  if (closed_ || error_) return std::nullopt;
  while (lane.admitted.empty() && next_read_ < plan_.reads.size()) {
    const PlanRead& read = plan_.reads[next_read_];
    Lane& owner = *lanes_[lane_of_source_[read.source]];
    if (owner.admitted.size() >= kMostAdmitted) break;  // the owner is slower: no use in running ahead of it
    if (!budget_.try_take(read.range.size(), room_for_oldest())) {
      lane.starved = true;
      over_budget_ = true;
      account_blocked();
      return std::nullopt;
    }
    owner.admitted.push_back(next_read_++);
    if (&owner != &lane && owner.starved) {
      owner.starved = false;
      owner.reader->wake();
    }
  }
  if (lane.admitted.empty()) {
    lane.starved = true;
    return std::nullopt;
  }
  const auto read = lane.admitted.front();
  lane.admitted.pop_front();
  if (lane.admitted.size() + 1 == kMostAdmitted) wake_starved_lanes();
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

std::uint64_t Stream::room_for_oldest() const {
  return oldest_item_ < plan_.items.size() ? plan_.span(oldest_item_) : 0;
}

void Stream::complete(ReaderKind kind, std::uint32_t read, Result<ReadEffort> result) {
  const PlanRead& plan = plan_.reads[read];
  // After a failure nobody knows whether a device still writes there: those blocks are held until the arena goes.
  if (result.ok()) arenas_[plan.source]->release(plan.range);
  const std::lock_guard lock(mutex_);
  if (--reads_left_of_source_[plan.source] == 0) open_handles_[plan.source].reset();
  if (!result.ok()) {
    if (!error_ && !closed_) error_ = std::move(result).error();
    ready_changed_.notify_all();
    return;
  }
  ++stats_.reads;
  stats_.retries += result->retries;
  const std::uint64_t bytes = std::min(plan.range.end, sources_->at(plan.source).size()) - plan.range.begin;
  stats_.bytes_read += bytes;
  stats_.bytes_by_reader[static_cast<std::size_t>(kind)] += bytes;
  budget_.give_back(plan.wasted);
  for (auto item = plan.first_item; item < plan.first_item + plan.items; ++item) {
    if (plan_.reads_left[item] > 0 && --plan_.reads_left[item] == 0) finish_item(item);
  }
  account_blocked();
  if (consumer_waits_ && deliverable()) ready_changed_.notify_one();
  if (plan.wasted > 0) wake_starved_lanes();
}

// Precondition: mutex_ is held.
void Stream::finish_item(std::uint32_t item) {
  complete_[item] = true;
  if (!file_order_) ready_.push_back(item);
  while (oldest_item_ < complete_.size() && complete_[oldest_item_]) ++oldest_item_;
}

bool Stream::deliverable() const {
  return file_order_ ? next_item_ < complete_.size() && complete_[next_item_] : !ready_.empty();
}

std::uint32_t Stream::take_ready() {
  if (file_order_) return next_item_++;
  const auto item = ready_.front();
  ready_.pop_front();
  return item;
}

// Precondition: mutex_ is held. Reading waits for the consumer while a read finds no room and the consumer has
// something to take.
void Stream::account_blocked() {
  const bool counts = over_budget_ && !closed_ && deliverable() && !consumer_waits_;
  if (counts == blocked_since_.has_value()) return;
  if (counts) {
    blocked_since_ = Clock::now();
  } else {
    stats_.wait_consumer_seconds += seconds(Clock::now() - *blocked_since_);
    blocked_since_.reset();
  }
}

// Precondition: mutex_ is held.
void Stream::wake_starved_lanes() {
  if (next_read_ == plan_.reads.size()) return;
  // Waking a lane that would find no room again costs more than it brings.
  if (!budget_.fits(plan_.reads[next_read_].range.size(), room_for_oldest())) return;
  for (auto& lane : lanes_) {
    if (!lane->starved) continue;
    lane->starved = false;
    lane->reader->wake();
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
  if (!error_ && handed_out_count_ < plan_.items.size() && !deliverable()) {
    consumer_inside_ = consumer_waits_ = true;
    const auto begin = Clock::now();
    ready_changed_.wait_until(lock, begin + patience, [this] { return error_ || closed_ || deliverable(); });
    stats_.wait_storage_seconds += seconds(Clock::now() - begin);
    consumer_inside_ = consumer_waits_ = false;
  }
  if (error_) return *error_;
  if (closed_) return Error{.code = ErrorCode::kClosed, .message = "the stream was closed by another thread"};
  if (handed_out_count_ == plan_.items.size()) return Next::kEnd;
  if (!deliverable()) return Next::kNotYet;

  std::uint64_t bytes = 0;
  std::size_t count = 0;
  do {
    const auto item = take_ready();
    const PlanItem& plan = plan_.items[item];
    handed_out_[item] = true;
    batch.push_back({item, plan.range.empty() ? Lease() : arenas_[plan.source]->lease(plan.range)});
    bytes += plan.range.size();
    ++count;
  } while (deliverable() && count < kBatchItems &&
           bytes + plan_.items[file_order_ ? next_item_ : ready_.front()].range.size() <= kBatchBytes);

  const double now = seconds(Clock::now() - called_);
  if (handed_out_count_ == 0) stats_.first_item_seconds = now;
  stats_.seconds = now;
  handed_out_count_ += static_cast<std::uint32_t>(count);
  stats_.items += count;
  stats_.bytes += bytes;
  budget_.give_back(bytes);
  over_budget_ = false;  // until a pull finds no room again
  account_blocked();
  wake_starved_lanes();
  return Next::kItems;
}

void Stream::close() {
  if (::getpid() != process_) {
    // After a fork the threads live in the parent only, and the lock may have been theirs at that moment: nothing here
    // can be locked or joined. What they own is left alone.
    for (auto& lane : lanes_) static_cast<void>(lane->reader.release());
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    account_blocked();
  }
  ready_changed_.notify_all();
  for (auto& lane : lanes_) lane->reader->stop();
  // With their descriptors and buffers: whoever closed the stream may keep the object for its numbers.
  for (auto& lane : lanes_) lane->reader.reset();
  // Readers are still now. What was never read or handed out will never be: its holds go, so that blocks it shares
  // with items that live on can go when those do.
  pool_->close();
  for (auto& lane : lanes_) {
    for (const auto read : lane->admitted) release_read(read);
    lane->admitted.clear();
  }
  while (next_read_ < plan_.reads.size()) release_read(next_read_++);
  for (std::uint32_t item = 0; item < plan_.items.size(); ++item) {
    const PlanItem& plan = plan_.items[item];
    if (!handed_out_[item] && !plan.range.empty() && arenas_[plan.source]) {
      [[maybe_unused]] const Lease dropped = arenas_[plan.source]->lease(plan.range);
    }
  }
  arenas_.assign(arenas_.size(), nullptr);
  open_handles_.assign(open_handles_.size(), nullptr);
}

void Stream::release_read(std::uint32_t read) {
  const PlanRead& plan = plan_.reads[read];
  if (arenas_[plan.source]) arenas_[plan.source]->release(plan.range);
}

StreamStats Stream::stats() const {
  std::unique_lock lock(mutex_, std::defer_lock);
  if (::getpid() == process_) lock.lock();  // see close()
  StreamStats stats = stats_;
  stats.peak_host_bytes = budget_.peak();
  const auto now = Clock::now();
  if (!closed_ && !error_ && handed_out_count_ < plan_.items.size()) stats.seconds = seconds(now - called_);
  if (blocked_since_) stats.wait_consumer_seconds += seconds(now - *blocked_since_);
  return stats;
}

}  // namespace weightstream
