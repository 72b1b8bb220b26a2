#include "device/accelerator.h"

#include <array>
#include <cstdlib>

namespace weightstream {
namespace {

constexpr int kTextBytes = 256;

}  // namespace

Accelerator::Accelerator(std::shared_ptr<const Driver> driver, int ordinal)
    : driver_(std::move(driver)), label_("cuda:" + std::to_string(ordinal)) {}

Result<std::shared_ptr<Accelerator>> Accelerator::open(std::shared_ptr<const Driver> driver, int ordinal) {
  const std::shared_ptr<Accelerator> opened(new Accelerator(std::move(driver), ordinal));
  if (auto usable = opened->check_usable(); !usable) return std::move(usable).error();
  if (auto found = opened->find_device(ordinal); !found) return std::move(found).error();
  if (auto described = opened->describe(); !described) return std::move(described).error();
  return opened;
}

Status Accelerator::find_device(int ordinal) {
  int count = 0;
  if (auto counted = check(table().device_count(&count)); !counted) return counted;
  if (ordinal < 0 || ordinal >= count) {
    const char* visible = std::getenv(driver_->visible_by());
    return Error{.code = ErrorCode::kDevice,
                 .message = "there is no device " + label_ + ": the " + driver_->vendor_name() + " driver shows " +
                            std::to_string(count) + (count == 1 ? " device" : " devices") + " to this process (" +
                            driver_->visible_by() + (visible != nullptr ? std::string("=") + visible : " is not set") +
                            ")"};
  }
  if (auto got = check(table().device(&device_, ordinal)); !got) return got;
  std::array<char, kTextBytes> text{};
  if (auto named = check(table().device_name(text.data(), kTextBytes, device_)); !named) return named;
  name_ = text.data();
  // A virtual device may have none; all that it costs is to know which memory is near.
  text.fill('\0');
  if (driver_->check(table().pci_bus_id(text.data(), kTextBytes, device_))) pci_bus_id_ = text.data();
  int integrated = 0;
  if (driver_->check(table().device_attribute(&integrated, driver_->integrated_attribute(), device_))) {
    integrated_ = integrated != 0;
  }
  return Ok{};
}

Status Accelerator::describe() {
  if (auto retained = check(driver_->retain_context(device_, &context_)); !retained) return retained;
  retained_ = true;
  return within([this] {
    int lowest = 0;
    return check(driver_->priority_range(&lowest, &copy_priority_));
  });
}

DriverStatus Accelerator::enter(Outside& outside) const {
  const DriverStatus entered = driver_->enter(device_, context_, &outside.current);
  if (!entered.ok()) return entered;
  const DriverStatus relaxed = table().exchange_capture_mode(&outside.capture_mode);
  if (!relaxed.ok()) (void)driver_->leave(device_, outside.current);
  return relaxed;
}

DriverStatus Accelerator::leave(Outside& outside) const {
  const DriverStatus restored = table().exchange_capture_mode(&outside.capture_mode);
  const DriverStatus left = driver_->leave(device_, outside.current);
  return restored.ok() ? left : restored;
}

Accelerator::~Accelerator() {
  if (retained_ && driver_->usable_here()) driver_->release_context(device_);
}

Status Accelerator::register_host(std::byte* at, std::uint64_t bytes) {
  bool registered = false;
  auto done = within([&] {
    DriverStatus result = table().host_register(at, bytes, kHostRegisterPortable);
    if (result.status == kDriverAlreadyRegistered) {
      // Memory that was unmapped after its unregistration failed; the same addresses came back.
      (void)driver_->check(table().host_unregister(at));
      result = table().host_register(at, bytes, kHostRegisterPortable);
    }
    registered = result.ok();
    return check(result);
  });
  if (!done && registered) unregister_host(at);  // the way back to what was current failed
  return done;
}

void Accelerator::unregister_host(std::byte* at) noexcept {
  quietly_within([&] { return table().host_unregister(at); });
}

Status Accelerator::check_usable() {
  if (!driver_->usable_here()) {
    return Error{.code = ErrorCode::kClosed,
                 .message = label_ + " belongs to the process that opened it, and not to a forked child"};
  }
  if (!lost()) return Ok{};
  const std::lock_guard lock(mutex_);
  return Error{.code = ErrorCode::kDevice, .message = label_ + " cannot be used any more since " + lost_because_};
}

Error Accelerator::explain(Error error, int status) {
  if (Driver::is_lost(status)) {
    const std::lock_guard lock(mutex_);
    if (lost_because_.empty()) lost_because_ = error.message;
    lost_.store(true, std::memory_order_release);
  }
  error.message = label_ + (name_.empty() ? "" : " (" + name_ + ")") + ": " + error.message;
  return error;
}

Status Accelerator::check(DriverStatus result) {
  if (result.ok()) return Ok{};
  return explain(std::move(driver_->check(result)).error(), result.status);
}

Result<bool> Accelerator::check_ready(DriverStatus result) {
  auto ready = driver_->check_ready(result);
  if (!ready) return explain(std::move(ready).error(), result.status);
  return ready;
}

}  // namespace weightstream
