// The functions of a driver, and what they check. How the work is done is in device.cc.
#include "machine.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace fake {
namespace {

// What a stream holds of work that has not run.
constexpr std::size_t kMostQueued = 1000;

thread_local int capture_mode_of_thread = kCaptureGlobal;

void* handle_of(const void* object) { return const_cast<void*>(object); }

}  // namespace

int exchange_capture_mode(int* mode) {
  if (*mode < kCaptureGlobal || *mode > kCaptureRelaxed) return kInvalidValue;
  std::swap(*mode, capture_mode_of_thread);
  return kSuccess;
}

int capture_mode() { return capture_mode_of_thread; }

// Lives as long as the process: its thread may be at work until the end.
Machine& Machine::instance() {
  static auto* machine = new Machine;
  static const bool ready = (machine->reset(0), true);
  (void)ready;
  return *machine;
}

bool Machine::in_forked_child() const {
  const pid_t process = process_;
  return process != 0 && process != ::getpid();
}

void Machine::reset(std::uint64_t seed) {
  stop();
  const std::lock_guard lock(mutex_);
  streams_.clear();
  events_.clear();
  memory_.clear();
  registered_.clear();
  calls.clear();
  violation.clear();
  failing.clear();
  fails_in = 0;
  copy_latency = event_latency = {};
  bytes_per_second = 0;
  register_limit = UINT64_MAX;
  integrated = 0;
  capture_mode_of_thread = kCaptureGlobal;
  captures_.clear();
  counts_ = {};
  calls_after_fork_ = 0;
  cufile = {};
  stopping_ = paused_ = initialised_ = false;
  dead_ = kSuccess;
  process_ = 0;
  random_.seed(seed);
  contexts_.clear();
  set_devices(2);
}

void Machine::set_devices(int count) {
  while (device_count() > count) {
    const Context* gone = contexts_.back().get();
    streams_.remove_if([&](const Stream& stream) { return stream.context == gone; });
    contexts_.pop_back();
  }
  while (device_count() < count) {
    auto& context = *contexts_.emplace_back(std::make_unique<Context>(Context{.ordinal = device_count()}));
    context.default_stream = &streams_.emplace_back(Stream{.context = &context, .blocking = true, .foreign = true});
  }
}

int Machine::admit(const char* name, Needs needs, Context* current) {
  ++calls[name];
  if (fails_in != 0 && failing == name && --fails_in == 0) {
    if (fails_for_good) (current != nullptr ? current->lost : dead_) = fails_with;
    return fails_with;
  }
  if (dead_ != kSuccess) return dead_;
  if (needs != Needs::kNothing && !initialised_) return kNotInitialized;
  if (needs != Needs::kContext && needs != Needs::kNoCapture) return kSuccess;
  if (current == nullptr) return kInvalidContext;
  if (current->lost != kSuccess) return current->lost;
  return needs == Needs::kNoCapture && disturbs_capture() ? kCaptureUnsupported : kSuccess;
}

// Ends the captures that a call of this thread disturbs, if there are any.
bool Machine::disturbs_capture() {
  if (capture_mode_of_thread == kCaptureRelaxed) return false;
  bool any = false;
  for (Capture& capture : captures_) {
    const bool own = capture.by == std::this_thread::get_id() && capture.mode != kCaptureRelaxed;
    const bool others = capture_mode_of_thread == kCaptureGlobal && capture.mode == kCaptureGlobal;
    if (!own && !others) continue;
    capture.invalidated = any = true;
  }
  return any;
}

void Machine::begin_capture(void* stream, int mode) {
  captures_.push_back({.stream = stream, .by = std::this_thread::get_id(), .mode = mode});
}

int Machine::end_capture(void* stream) {
  const auto found = std::find_if(captures_.begin(), captures_.end(),
                                  [&](const Capture& capture) { return capture.stream == stream; });
  if (found == captures_.end()) return kInvalidValue;
  const bool invalidated = found->invalidated;
  captures_.erase(found);
  return invalidated ? kCaptureInvalidated : kSuccess;
}

int Machine::init() {
  initialised_ = true;
  process_ = ::getpid();
  return contexts_.empty() ? kNoDevice : kSuccess;
}

Context* Machine::context(int ordinal) const {
  return ordinal >= 0 && ordinal < device_count() ? contexts_[static_cast<std::size_t>(ordinal)].get() : nullptr;
}

int Machine::retain(Context& context) {
  ++context.retained;
  return kSuccess;
}

int Machine::release(Context& context) {
  if (context.retained == 0) return kInvalidContext;
  if (--context.retained > 0) return kSuccess;
  const auto ours = [&](const auto& object) { return object.context == &context; };
  const bool streams = std::any_of(streams_.begin(), streams_.end(), [&](const Stream& stream) {
    return ours(stream) && !stream.foreign && !stream.destroyed;
  });
  if (streams || std::any_of(events_.begin(), events_.end(), ours)) violate("a context was released under its handles");
  return kSuccess;
}

int Machine::create_stream(Context& context, unsigned flags, void** stream) {
  if (flags > 1) return kInvalidValue;
  *stream = &streams_.emplace_back(Stream{.context = &context, .blocking = flags == 0, .foreign = false});
  return kSuccess;
}

Stream* Machine::find_stream(void* handle, Context& context) {
  if (handle == nullptr) return context.default_stream;
  const auto found = std::find_if(streams_.begin(), streams_.end(),
                                  [&](const Stream& stream) { return handle_of(&stream) == handle; });
  return found == streams_.end() || found->destroyed ? nullptr : &*found;
}

int Machine::destroy_stream(void* handle) {
  const auto found = std::find_if(streams_.begin(), streams_.end(),
                                  [&](const Stream& stream) { return handle_of(&stream) == handle; });
  if (found == streams_.end() || found->destroyed || found->foreign) return kInvalidHandle;
  found->destroyed = true;
  if (found->queue.empty()) streams_.erase(found);
  return kSuccess;
}

int Machine::query_stream(void* handle, Context& context) {
  const Stream* stream = find_stream(handle, context);
  if (stream == nullptr) return kInvalidHandle;
  if (stream->context->lost != kSuccess) return stream->context->lost;
  return stream->queue.empty() ? kSuccess : kNotReady;
}

int Machine::create_event(Context& context, void** event) {
  *event = &events_.emplace_back(Event{.context = &context});
  return kSuccess;
}

int Machine::destroy_event(void* handle) {
  return events_.remove_if([&](const Event& event) { return handle_of(&event) == handle; }) == 1 ? kSuccess
                                                                                                 : kInvalidHandle;
}

Event* Machine::find_event(void* handle) {
  const auto found =
      std::find_if(events_.begin(), events_.end(), [&](const Event& event) { return handle_of(&event) == handle; });
  return found == events_.end() ? nullptr : &*found;
}

int Machine::query_event(void* handle) {
  const Event* event = find_event(handle);
  if (event == nullptr) return kInvalidHandle;
  if (event->context->lost != kSuccess) return event->context->lost;
  return event->mark == nullptr || event->mark->done ? kSuccess : kNotReady;
}

int Machine::wait_for_room(std::unique_lock<std::mutex>& lock, const Stream& stream) {
  changed_.wait(lock, [&] { return stream.queue.size() < kMostQueued || stream.context->lost != kSuccess; });
  return stream.context->lost;
}

int Machine::record(std::unique_lock<std::mutex>& lock, void* handle, void* stream, Context& context) {
  Stream* on = find_stream(stream, context);
  Event* event = find_event(handle);
  if (on == nullptr || event == nullptr || event->context != on->context) return kInvalidHandle;
  if (const int lost = wait_for_room(lock, *on); lost != kSuccess) return lost;
  event->mark = std::make_shared<Mark>();
  enqueue(*on, {.kind = Operation::Kind::kRecord, .mark = event->mark, .duration = event_latency});
  return kSuccess;
}

int Machine::wait(std::unique_lock<std::mutex>& lock, void* stream, void* handle, Context& context) {
  Stream* on = find_stream(stream, context);
  const Event* event = find_event(handle);
  if (on == nullptr || event == nullptr) return kInvalidHandle;
  if (const int lost = wait_for_room(lock, *on); lost != kSuccess) return lost;
  if (event->mark != nullptr) enqueue(*on, {.kind = Operation::Kind::kWait, .mark = event->mark});
  return kSuccess;
}

bool Machine::registered(const std::byte* at, std::uint64_t bytes, bool* partly) const {
  *partly = false;
  for (const auto& [begin, size] : registered_) {
    if (at >= begin && at + bytes <= begin + size) return true;
    if (at < begin + size && begin < at + bytes) *partly = true;
  }
  return false;
}

int Machine::register_host(void* at, std::uint64_t bytes) {
  if (at == nullptr || bytes == 0) return kInvalidValue;
  const auto* begin = static_cast<const std::byte*>(at);
  bool partly = false;
  if (registered(begin, bytes, &partly) || partly) return kAlreadyRegistered;
  if (counts_.registered_bytes + bytes > register_limit) return kOutOfMemory;
  registered_[begin] = bytes;
  counts_.registered_bytes += bytes;
  return kSuccess;
}

int Machine::unregister_host(void* at) {
  const auto found = registered_.find(static_cast<const std::byte*>(at));
  if (found == registered_.end()) return kNotRegistered;
  const auto [begin, size] = *found;
  for (const Stream& stream : streams_) {
    if (stream.context->lost != kSuccess) continue;  // nothing of it runs any more
    for (const Operation& operation : stream.queue) {
      if (operation.from >= begin && operation.from < begin + size) violate("memory was unregistered under a copy");
    }
  }
  counts_.registered_bytes -= size;
  registered_.erase(found);
  return kSuccess;
}

int Machine::copy(std::unique_lock<std::mutex>& lock, std::uint64_t to, const void* from, std::uint64_t bytes,
                  void* stream, Context& context) {
  Stream* on = find_stream(stream, context);
  if (on == nullptr) return kInvalidHandle;
  if (const int lost = wait_for_room(lock, *on); lost != kSuccess) return lost;
  Operation copy{.kind = Operation::Kind::kCopy, .to = to, .bytes = bytes, .from = static_cast<const std::byte*>(from)};
  bool partly = false;
  if (!registered(copy.from, bytes, &partly)) {
    if (partly) return kInvalidValue;
    if (disturbs_capture()) return kCaptureUnsupported;
    ++counts_.pageable_copies;
    changed_.wait(lock, [&] { return on->queue.empty() || context.lost != kSuccess; });
    if (context.lost != kSuccess) return context.lost;
    copy.staged.assign(copy.from, copy.from + bytes);
    copy.from = nullptr;
  }
  const double jitter = std::uniform_real_distribution<>(0.5, 1.5)(random_);
  copy.duration = std::chrono::duration_cast<Clock::duration>(copy_latency * jitter);
  if (bytes_per_second != 0) {
    const std::chrono::duration<double> link(static_cast<double>(bytes) / static_cast<double>(bytes_per_second));
    copy.duration += std::chrono::duration_cast<Clock::duration>(link);
  }
  enqueue(*on, std::move(copy));
  return kSuccess;
}

FakeCounts Machine::counts() const {
  FakeCounts counts = counts_;
  counts.streams = static_cast<std::uint64_t>(std::count_if(
      streams_.begin(), streams_.end(), [](const Stream& stream) { return !stream.foreign && !stream.destroyed; }));
  counts.events = events_.size();
  for (const auto& context : contexts_) counts.contexts += context->retained;
  counts.calls_after_fork = calls_after_fork_;
  counts.cufile_files = cufile.files.size();
  counts.cufile_reads = cufile.reads;
  counts.cufile_bytes = cufile.bytes;
  counts.cufile_most_at_once = cufile.most_at_once;
  return counts;
}

void* Machine::foreign_stream(int ordinal, bool blocking) {
  return &streams_.emplace_back(Stream{.context = context(ordinal), .blocking = blocking, .foreign = true});
}

}  // namespace fake
