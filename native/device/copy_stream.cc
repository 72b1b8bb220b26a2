#include "device/copy_stream.h"

#include <algorithm>
#include <thread>

namespace weightstream {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kFirstPause = microseconds(10);
constexpr auto kLongestPause = microseconds(1000);

// The driver's own waits have no bound, and some of them spin.
template <typename Ready>
Result<bool> poll(Ready ready, milliseconds bound) {
  const auto deadline = steady_clock::now() + bound;
  for (auto pause = kFirstPause;; pause = std::min(2 * pause, kLongestPause)) {
    auto answer = ready();
    if (!answer || *answer) return answer;
    const auto left = deadline - steady_clock::now();
    if (left <= steady_clock::duration::zero()) return false;
    std::this_thread::sleep_for(std::min<steady_clock::duration>(pause, left));
  }
}

// What a query says, asked with the device current.
template <typename Query>
Result<bool> ask(Accelerator& accelerator, Query query) {
  bool ready = false;
  auto asked = accelerator.within([&]() -> Status {
    auto answer = accelerator.check_ready(query());
    if (!answer) return std::move(answer).error();
    ready = *answer;
    return Ok{};
  });
  if (!asked) return std::move(asked).error();
  return ready;
}

void* as_handle(ForeignStream stream) {
  return reinterpret_cast<void*>(stream);  // NOLINT(performance-no-int-to-ptr): torch gives handles as integers
}

}  // namespace

Result<DeviceEvent> DeviceEvent::create(std::shared_ptr<Accelerator> accelerator) {
  DeviceEvent event(std::move(accelerator), nullptr);
  Accelerator& device = *event.accelerator_;
  auto created =
      device.within([&] { return device.check(device.table().event_create(&event.handle_, kEventDisableTiming)); });
  if (!created) return std::move(created).error();
  return event;
}

DeviceEvent& DeviceEvent::operator=(DeviceEvent&& other) noexcept {
  if (this != &other) {
    reset();
    accelerator_ = std::move(other.accelerator_);
    handle_ = std::exchange(other.handle_, nullptr);
  }
  return *this;
}

void DeviceEvent::reset() noexcept {
  if (handle_ == nullptr) return;
  accelerator_->quietly_within([this] { return accelerator_->table().event_destroy(handle_); });
  handle_ = nullptr;
}

Status DeviceEvent::record(ForeignStream stream) {
  return accelerator_->within(
      [&] { return accelerator_->check(accelerator_->table().event_record(handle_, as_handle(stream))); });
}

Result<bool> DeviceEvent::reached() const {
  return ask(*accelerator_, [this] { return accelerator_->table().event_query(handle_); });
}

Result<bool> DeviceEvent::wait_for(milliseconds bound) const {
  return poll([this] { return reached(); }, bound);
}

Result<std::unique_ptr<CopyStream>> CopyStream::create(std::shared_ptr<Accelerator> accelerator) {
  auto foreign = DeviceEvent::create(accelerator);
  if (!foreign) return std::move(foreign).error();
  std::unique_ptr<CopyStream> stream(new CopyStream(std::move(accelerator), std::move(foreign).value(), nullptr));
  Accelerator& device = *stream->accelerator_;
  auto created = device.within([&] {
    return device.check(device.table().stream_create(&stream->handle_, kStreamNonBlocking, device.copy_priority()));
  });
  if (!created) return std::move(created).error();
  return stream;
}

CopyStream::~CopyStream() {
  if (handle_ == nullptr) return;
  accelerator_->quietly_within([this] { return accelerator_->table().stream_destroy(handle_); });
}

Status CopyStream::copy(std::uint64_t to, const std::byte* from, std::uint64_t bytes) {
  if (bytes == 0) return Ok{};
  return accelerator_->within(
      [&] { return accelerator_->check(accelerator_->table().copy_to_device(to, from, bytes, handle_)); });
}

Status CopyStream::record(DeviceEvent& event) {
  return accelerator_->within(
      [&] { return accelerator_->check(accelerator_->table().event_record(event.handle_, handle_)); });
}

Status CopyStream::wait_for(const DeviceEvent& event) {
  return accelerator_->within(
      [&] { return accelerator_->check(accelerator_->table().stream_wait_event(handle_, event.handle_, 0)); });
}

Status CopyStream::wait_for(ForeignStream stream) {
  return accelerator_->within([&]() -> Status {
    // Inside, where a forked child does not come: a thread of the parent may have had the lock.
    const std::lock_guard lock(mutex_);
    auto recorded = accelerator_->check(accelerator_->table().event_record(foreign_.handle_, as_handle(stream)));
    if (!recorded) return recorded;
    return accelerator_->check(accelerator_->table().stream_wait_event(handle_, foreign_.handle_, 0));
  });
}

Result<bool> CopyStream::idle() const {
  return ask(*accelerator_, [this] { return accelerator_->table().stream_query(handle_); });
}

Result<bool> CopyStream::wait_idle(milliseconds bound) const {
  return poll([this] { return idle(); }, bound);
}

}  // namespace weightstream
