// HIP, whose driver and runtime are one library. A thread has a current device instead of a stack of contexts, and a
// device has one context, which is there from the start.
#include "device/driver.h"

namespace weightstream {
namespace {

constexpr DriverStatus kNothingToDo{"", 0};

std::string text_or_nothing(const char* text) { return text != nullptr ? text : ""; }

class HipDriver final : public Driver {
 public:
  explicit HipDriver(DriverLibrary& library) : Driver(Vendor::kHip) {
    library.bind(table.init, "hipInit");
    library.bind(table.version, "hipDriverGetVersion");
    library.bind(table.device_count, "hipGetDeviceCount");
    library.bind(table.device, "hipDeviceGet");
    library.bind(table.device_name, "hipDeviceGetName");
    library.bind(table.pci_bus_id, "hipDeviceGetPCIBusId");
    library.bind(table.device_attribute, "hipDeviceGetAttribute");
    library.bind(table.exchange_capture_mode, "hipThreadExchangeStreamCaptureMode");
    library.bind(table.stream_create, "hipStreamCreateWithPriority");
    library.bind(table.stream_destroy, "hipStreamDestroy");
    library.bind(table.stream_wait_event, "hipStreamWaitEvent");
    library.bind(table.stream_query, "hipStreamQuery");
    library.bind(table.event_create, "hipEventCreateWithFlags");
    library.bind(table.event_destroy, "hipEventDestroy");
    library.bind(table.event_record, "hipEventRecord");
    library.bind(table.event_query, "hipEventQuery");
    library.bind(table.host_register, "hipHostRegister");
    library.bind(table.host_unregister, "hipHostUnregister");
    library.bind(table.copy_to_device, "hipMemcpyHtoDAsync");
    library.bind(get_device_, "hipGetDevice");
    library.bind(set_device_, "hipSetDevice");
    library.bind(priority_range_, "hipDeviceGetStreamPriorityRange");
    library.bind(last_error_, "hipGetLastError");
    library.bind(error_name_, "hipGetErrorName");
    library.bind(error_string_, "hipGetErrorString");
  }

  DriverStatus retain_context(int /*device*/, void** context) const override {
    *context = nullptr;
    return kNothingToDo;
  }
  void release_context(int /*device*/) const noexcept override {}

  DriverStatus enter(int device, void* /*context*/, std::intptr_t* before) const override {
    int current = 0;
    const DriverStatus asked = get_device_(&current);
    *before = current;
    return !asked.ok() || current == device ? asked : set_device_(device);
  }
  DriverStatus leave(int device, std::intptr_t before) const override {
    return before == device ? kNothingToDo : set_device_(static_cast<int>(before));
  }

  int integrated_attribute() const override { return 16; }
  DriverStatus priority_range(int* lowest, int* highest) const override { return priority_range_(lowest, highest); }

 private:
  std::string status_name(int status) const override {
    const auto name = text_or_nothing(error_name_(status));
    return name.empty() ? "an unknown HIP error" : name;
  }
  std::string status_text(int status) const override { return text_or_nothing(error_string_(status)); }
  // Frameworks ask for the thread's last error after each kernel, and would take ours for theirs.
  void forget_failure() const override { (void)last_error_(); }

  const char* (*error_name_)(int) = nullptr;
  const char* (*error_string_)(int) = nullptr;
  DriverFunction<int(int* device)> get_device_;
  DriverFunction<int(int device)> set_device_;
  DriverFunction<int(int* least, int* greatest)> priority_range_;
  DriverFunction<int()> last_error_;
};

}  // namespace

std::shared_ptr<Driver> bind_hip(DriverLibrary& library) { return std::make_shared<HipDriver>(library); }

}  // namespace weightstream
