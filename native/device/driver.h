// The driver of the accelerators of one vendor, as a table of functions that is the same for all vendors.
//
// The library is opened when a device is first asked for, never for the CPU, and stays open. Nothing of a vendor's
// toolkit is needed, to build or to run: the functions are declared here by their published signatures.
//
// Thread-safe. In a forked child of a process that initialised the driver nothing of it may be called, because no
// driver survives a fork; usable_here() says so, and every caller in this folder asks it first.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/error.h"
#include "base/result.h"
#include "device/driver_library.h"

namespace weightstream {

enum class Vendor : std::uint8_t { kCuda, kHip };

// Statuses that mean the same to both vendors, by the same numbers.
inline constexpr int kDriverNotReady = 600;
inline constexpr int kDriverAlreadyRegistered = 712;

// Handles are the driver's own pointers; what they point to is never looked at. An address of device memory is a 64 bit
// integer to CUDA and a pointer to HIP, which are passed in the same way.
struct DriverTable {
  DriverFunction<int(unsigned flags)> init;
  DriverFunction<int(int* version)> version;
  DriverFunction<int(int* count)> device_count;
  DriverFunction<int(int* device, int ordinal)> device;
  DriverFunction<int(char* name, int size, int device)> device_name;
  DriverFunction<int(char* id, int size, int device)> pci_bus_id;
  DriverFunction<int(int* value, int attribute, int device)> device_attribute;
  DriverFunction<int(int* mode)> exchange_capture_mode;  // of the calling thread
  DriverFunction<int(void** stream, unsigned flags, int priority)> stream_create;
  DriverFunction<int(void* stream)> stream_destroy;
  DriverFunction<int(void* stream, void* event, unsigned flags)> stream_wait_event;
  DriverFunction<int(void* stream)> stream_query;
  DriverFunction<int(void** event, unsigned flags)> event_create;
  DriverFunction<int(void* event)> event_destroy;
  DriverFunction<int(void* event, void* stream)> event_record;
  DriverFunction<int(void* event)> event_query;
  DriverFunction<int(void* at, std::size_t bytes, unsigned flags)> host_register;
  DriverFunction<int(void* at)> host_unregister;
  DriverFunction<int(std::uint64_t to, const void* from, std::size_t bytes, void* stream)> copy_to_device;
};

// Flags that both vendors give the same numbers.
inline constexpr unsigned kStreamNonBlocking = 1;  // does not wait for the default stream, nor make it wait
inline constexpr unsigned kEventDisableTiming = 2;
inline constexpr unsigned kHostRegisterPortable = 1;  // pinned for every device of the process
// What a thread may call while a graph is being captured: anything.
inline constexpr int kCaptureRelaxed = 2;

class Driver {
 public:
  // The driver of this process: loaded and initialised by the first call, then the same for ever. A failure is
  // remembered too, with its reason; a new process tries again. WEIGHTSTREAM_CUDA_DRIVER and WEIGHTSTREAM_HIP_DRIVER
  // name another library, by absolute path.
  //
  // Fails with kConfig when such a path is relative, and with kDevice when there is no driver, it is too old, it
  // refuses to start, or this process was forked from one that had it loaded.
  static Result<std::shared_ptr<const Driver>> of_process(Vendor vendor);

  // A driver of its own from `library` (an absolute path; empty: where the vendor's installer puts it). Fails as above.
  static Result<std::shared_ptr<const Driver>> open(Vendor vendor, const std::string& library);

  virtual ~Driver() = default;
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  DriverTable table;

  // The primary context of a device, which a framework in this process uses too. HIP has one for each device, always.
  [[nodiscard]] virtual DriverStatus retain_context(int device, void** context) const = 0;
  virtual void release_context(int device) const noexcept = 0;

  // Makes a device current on this thread, and puts back what was current before. `before` carries that from one to
  // the other and means nothing else.
  [[nodiscard]] virtual DriverStatus enter(int device, void* context, std::intptr_t* before) const = 0;
  [[nodiscard]] virtual DriverStatus leave(int device, std::intptr_t before) const = 0;

  // What this vendor numbers the attribute by which a device shares the memory of the host.
  [[nodiscard]] virtual int integrated_attribute() const = 0;

  // The priorities that a stream can have; the highest is the smallest number. Called with the device current.
  [[nodiscard]] virtual DriverStatus priority_range(int* lowest, int* highest) const = 0;

  // Whether `status` says that a context is lost: it stays that way until the process ends.
  [[nodiscard]] static bool is_lost(int status);
  // Ok, or an Error that names the call, the driver's name and text for the status, and what to do about it.
  [[nodiscard]] Status check(DriverStatus result) const;
  // Whether what was asked about is done. Not being ready is no failure.
  [[nodiscard]] Result<bool> check_ready(DriverStatus result) const;

  [[nodiscard]] bool usable_here() const;
  [[nodiscard]] Vendor vendor() const { return vendor_; }
  [[nodiscard]] const char* vendor_name() const;  // "CUDA", "HIP"
  [[nodiscard]] const char* visible_by() const;  // the variable that says which devices a process sees

 protected:
  explicit Driver(Vendor vendor) : vendor_(vendor) {}

  virtual std::string status_name(int status) const = 0;
  virtual std::string status_text(int status) const = 0;
  // A runtime keeps its last failure for the thread's next question, which is not ours to answer.
  virtual void forget_failure() const {}

 private:
  const Vendor vendor_;
  pid_t process_ = 0;  // which initialised it
};

// The two loaders. `library` is bound to a table, but not initialised; missing() of it names what it does not have.
[[nodiscard]] std::shared_ptr<Driver> bind_cuda(DriverLibrary& library);
[[nodiscard]] std::shared_ptr<Driver> bind_hip(DriverLibrary& library);

}  // namespace weightstream
