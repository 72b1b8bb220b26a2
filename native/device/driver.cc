#include "device/driver.h"

#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

namespace weightstream {
namespace {

using Loaded = Result<std::shared_ptr<const Driver>>;

struct VendorTraits {
  const char* name;
  const char* library_variable;
  const char* visible_by;
  std::vector<const char*> libraries;
  const char* oldest;
  const char* install;
};

const VendorTraits& traits(Vendor vendor) {
  static const VendorTraits cuda{
      .name = "CUDA",
      .library_variable = "WEIGHTSTREAM_CUDA_DRIVER",
      .visible_by = "CUDA_VISIBLE_DEVICES",
      .libraries = {"libcuda.so.1"},
      .oldest = "CUDA 11.0",
      .install = "install the NVIDIA driver; a container needs the NVIDIA container runtime (`docker run --gpus all`)"};
  static const VendorTraits hip{
      .name = "HIP",
      .library_variable = "WEIGHTSTREAM_HIP_DRIVER",
      .visible_by = "HIP_VISIBLE_DEVICES",
      .libraries = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libamdhip64.so"},
      .oldest = "ROCm 5.2",
      .install = "install ROCm; a container needs /dev/kfd and /dev/dri (`docker run --device`)"};
  return vendor == Vendor::kCuda ? cuda : hip;
}

Error device_error(std::string message) { return {.code = ErrorCode::kDevice, .message = std::move(message)}; }

Error cannot_load(Vendor vendor, const std::string& library, const Error& reason) {
  const VendorTraits& of = traits(vendor);
  if (!library.empty()) {
    return device_error(std::string("the ") + of.name + " driver library that was named cannot be loaded: " +
                        reason.message + " (" + of.library_variable + " names it)");
  }
  return device_error(std::string("there is no ") + of.name + " driver: " + reason.message + " (" + of.install +
                      ", or load to the CPU)");
}

// CUDA counts 1000 a major version and 10 a minor one; HIP ten thousand times that.
std::string version_text(Vendor vendor, int version) {
  const int major = vendor == Vendor::kCuda ? version / 1000 : version / 10'000'000;
  const int minor = vendor == Vendor::kCuda ? version % 1000 / 10 : version / 100'000 % 100;
  return std::to_string(major) + "." + std::to_string(minor);
}

Error lacks_function(Vendor vendor, const Driver& driver, const DriverLibrary& library) {
  const VendorTraits& of = traits(vendor);
  const std::string path = library.path();
  if (driver.table.init.function == nullptr) {
    return device_error(path + " is no " + of.name + " driver library: it has no " + driver.table.init.name);
  }
  std::string message = std::string("the ") + of.name + " driver is too old: " + path + " has no " + library.missing();
  int version = 0;
  if (driver.table.version.function != nullptr && driver.table.version(&version).ok()) {
    message += " (it is for " + std::string(of.name) + " " + version_text(vendor, version) + ")";
  }
  return device_error(message + "; update it to one for " + of.oldest + " or newer");
}

// What a person can do about a status that either vendor may return.
std::string_view advice(int status) {
  switch (status) {
    case 2:
      return "free memory, or lower memory_limit or device_limit";
    case 34:
      return "this is the toolkit's stub of the driver: take its directory out of LD_LIBRARY_PATH";
    case 35:
    case 804:
      return "update the driver";
    case 46:
      return "another process has the device for itself";
    case 100:
      return "see what the vendor's own tool lists (nvidia-smi, rocm-smi), and which devices this process may see";
    case 800:
      return "the system does not permit it: look at the limits of the container and at `ulimit -l`";
    case 802:
      return "the system is still starting, or its fabric manager is not running";
    case 803:
      return "the driver and its kernel module are of different versions: restart the machine";
    default:
      return Driver::is_lost(status) ? "the device is lost to this process: start a new one" : "";
  }
}

struct Remembered {
  std::mutex mutex;
  std::atomic<pid_t> loader = 0;                 // the process that began to load
  std::atomic<const Loaded*> outcome = nullptr;  // never freed: threads may look at it until the process ends
};

Error loaded_before_fork(Vendor vendor) {
  return device_error(std::string("the ") + traits(vendor).name +
                      " driver was in use before this process was forked, and does not survive that; start processes "
                      "that use a device with the \"spawn\" method");
}

}  // namespace

Loaded Driver::of_process(Vendor vendor) {
  static std::array<Remembered, 2> all;
  Remembered& state = all[static_cast<std::size_t>(vendor)];
  const auto known = [&]() -> Loaded {
    const Loaded& outcome = *state.outcome.load(std::memory_order_acquire);
    return outcome.ok() && !outcome.value()->usable_here() ? Loaded(loaded_before_fork(vendor)) : outcome;
  };
  if (state.outcome.load(std::memory_order_acquire) != nullptr) return known();
  // A forked child must not touch the lock: the thread of the parent that holds it is not there to let go.
  pid_t loader = 0;
  if (!state.loader.compare_exchange_strong(loader, ::getpid()) && loader != ::getpid()) {
    return loaded_before_fork(vendor);
  }
  const std::lock_guard lock(state.mutex);
  if (state.outcome.load(std::memory_order_relaxed) == nullptr) {
    const char* named = ::secure_getenv(traits(vendor).library_variable);
    const auto* outcome = new Loaded(open(vendor, named != nullptr ? named : ""));
    state.outcome.store(outcome, std::memory_order_release);
  }
  return known();
}

Loaded Driver::open(Vendor vendor, const std::string& library) {
  const VendorTraits& of = traits(vendor);
  if (!library.empty() && library.front() != '/') {
    return Error{.code = ErrorCode::kConfig,
                 .message = std::string(of.library_variable) + " is \"" + library +
                            "\": it must be an absolute path, so that nobody can slip in another library"};
  }
  auto opened = library.empty() ? DriverLibrary::open(of.libraries) : DriverLibrary::open_path(library);
  if (!opened) return cannot_load(vendor, library, opened.error());
  const auto driver = vendor == Vendor::kCuda ? bind_cuda(*opened) : bind_hip(*opened);
  if (opened->missing() != nullptr) return lacks_function(vendor, *driver, *opened);
  opened->keep();
  driver->process_ = ::getpid();
  if (auto status = driver->check(driver->table.init(0)); !status) return std::move(status).error();
  return std::shared_ptr<const Driver>(driver);
}

bool Driver::is_lost(int status) {
  switch (status) {
    case 4:    // the driver is shutting down
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable error of a link
    case 226:  // contained error
    case 700:  // illegal address
    case 702:  // kernel timeout
    case 709:  // context destroyed
    case 710:  // assertion on the device
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failure
    case 721:  // tensor memory leak
    case 810:  // the server that shares the device ended this client
    case 911:  // error of an external device
      return true;
    default:
      return false;
  }
}

Status Driver::check(DriverStatus result) const {
  if (result.ok()) return Ok{};
  forget_failure();
  std::string message = std::string(result.call) + " failed with " + status_name(result.status) + " (" +
                        std::to_string(result.status) + ")";
  if (const std::string text = status_text(result.status); !text.empty()) message += ": " + text;
  if (const auto what_to_do = advice(result.status); !what_to_do.empty()) message.append("; ").append(what_to_do);
  return device_error(std::move(message));
}

Result<bool> Driver::check_ready(DriverStatus result) const {
  if (result.status == kDriverNotReady) {
    forget_failure();
    return false;
  }
  auto status = check(result);
  if (!status) return std::move(status).error();
  return true;
}

bool Driver::usable_here() const { return process_ == ::getpid(); }
const char* Driver::vendor_name() const { return traits(vendor_).name; }
const char* Driver::visible_by() const { return traits(vendor_).visible_by; }

}  // namespace weightstream
