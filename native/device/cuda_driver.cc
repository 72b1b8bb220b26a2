// The CUDA driver API. Names with _v2 are what the header's macros make of the plain ones: those without it are of
// another time, with 32 bit sizes. Names with _ptsz (another default stream) are never meant: a stream of the
// framework with the handle 0 is the default stream of the context, as in the framework itself.
#include "device/driver.h"

namespace weightstream {
namespace {

std::string said(const DriverFunction<int(int, const char**)>& ask, int status) {
  const char* text = nullptr;
  return ask(status, &text).ok() && text != nullptr ? text : "";
}

class CudaDriver final : public Driver {
 public:
  explicit CudaDriver(DriverLibrary& library) : Driver(Vendor::kCuda) {
    library.bind(table.init, "cuInit");
    library.bind(table.version, "cuDriverGetVersion");
    library.bind(table.device_count, "cuDeviceGetCount");
    library.bind(table.device, "cuDeviceGet");
    library.bind(table.device_name, "cuDeviceGetName");
    library.bind(table.pci_bus_id, "cuDeviceGetPCIBusId");
    library.bind(table.device_attribute, "cuDeviceGetAttribute");
    library.bind(table.exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
    library.bind(table.stream_create, "cuStreamCreateWithPriority");
    library.bind(table.stream_destroy, "cuStreamDestroy_v2");
    library.bind(table.stream_wait_event, "cuStreamWaitEvent");
    library.bind(table.stream_query, "cuStreamQuery");
    library.bind(table.event_create, "cuEventCreate");
    library.bind(table.event_destroy, "cuEventDestroy_v2");
    library.bind(table.event_record, "cuEventRecord");
    library.bind(table.event_query, "cuEventQuery");
    library.bind(table.host_register, "cuMemHostRegister_v2");
    library.bind(table.host_unregister, "cuMemHostUnregister");
    library.bind(table.copy_to_device, "cuMemcpyHtoDAsync_v2");
    library.bind(error_name_, "cuGetErrorName");
    library.bind(error_string_, "cuGetErrorString");
    library.bind(retain_, "cuDevicePrimaryCtxRetain");
    library.bind(release_, "cuDevicePrimaryCtxRelease_v2");
    library.bind(push_, "cuCtxPushCurrent_v2");
    library.bind(pop_, "cuCtxPopCurrent_v2");
    library.bind(priority_range_, "cuCtxGetStreamPriorityRange");
  }

  DriverStatus retain_context(int device, void** context) const override { return retain_(context, device); }
  // At the end of a process the driver may be gone before us; there is nothing left to release then.
  void release_context(int device) const noexcept override { (void)release_(device); }

  DriverStatus enter(int /*device*/, void* context, std::intptr_t* /*before*/) const override { return push_(context); }
  DriverStatus leave(int /*device*/, std::intptr_t /*before*/) const override {
    void* ours = nullptr;
    return pop_(&ours);
  }

  int integrated_attribute() const override { return 18; }
  DriverStatus priority_range(int* lowest, int* highest) const override { return priority_range_(lowest, highest); }

 private:
  std::string status_name(int status) const override {
    const auto name = said(error_name_, status);
    return name.empty() ? "an unknown CUDA error" : name;
  }
  std::string status_text(int status) const override { return said(error_string_, status); }

  DriverFunction<int(int, const char**)> error_name_;
  DriverFunction<int(int, const char**)> error_string_;
  DriverFunction<int(void** context, int device)> retain_;
  DriverFunction<int(int device)> release_;
  DriverFunction<int(void* context)> push_;
  DriverFunction<int(void** context)> pop_;
  DriverFunction<int(int* least, int* greatest)> priority_range_;
};

}  // namespace

std::shared_ptr<Driver> bind_cuda(DriverLibrary& library) { return std::make_shared<CudaDriver>(library); }

}  // namespace weightstream
