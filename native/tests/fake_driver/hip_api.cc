// The functions of HIP. A thread has a current device, the first to begin with, and keeps its last failure.
#include <cstdio>
#include <utility>

#include "machine.h"

using fake::Context;
using fake::Machine;
using fake::Needs;
using Lock = std::unique_lock<std::mutex>;

namespace {

thread_local int current_device = 0;
thread_local int failure = fake::kSuccess;

template <typename Body>
int call(const char* name, Needs needs, Body body) {
  const int status = Machine::instance().call(name, needs, fake::current_context(), body);
  if (status != fake::kSuccess) failure = status;
  return status;
}

Machine& machine() { return Machine::instance(); }

}  // namespace

Context* fake::current_context() { return machine().context(current_device); }
void fake::make_current(int ordinal) { current_device = ordinal; }
void fake::forget_current() { current_device = failure = 0; }
std::uint64_t fake::context_depth() { return 0; }
int fake::last_error() { return failure; }

FAKE_EXPORT int hipGetLastError() { return std::exchange(failure, fake::kSuccess); }

FAKE_EXPORT const char* hipGetErrorName(int status) {
  switch (status) {
    case fake::kOutOfMemory:
      return "hipErrorOutOfMemory";
    case fake::kNoDevice:
      return "hipErrorNoDevice";
    case fake::kIllegalAddress:
      return "hipErrorIllegalAddress";
    default:
      return "hipErrorUnknown";
  }
}

FAKE_EXPORT const char* hipGetErrorString(int status) { return fake::status_text(status); }

FAKE_EXPORT int hipInit(unsigned /*flags*/) {
  return call("hipInit", Needs::kNothing, [&](Lock&) { return machine().init(); });
}

FAKE_EXPORT int hipDriverGetVersion(int* version) {
  *version = 60'300'000;
  return fake::kSuccess;
}

FAKE_EXPORT int hipGetDeviceCount(int* count) {
  return call("hipGetDeviceCount", Needs::kInit, [&](Lock&) {
    *count = machine().device_count();
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipDeviceGet(int* device, int ordinal) {
  return call("hipDeviceGet", Needs::kInit, [&](Lock&) {
    *device = ordinal;
    return machine().context(ordinal) != nullptr ? fake::kSuccess : fake::kInvalidDevice;
  });
}

FAKE_EXPORT int hipDeviceGetName(char* name, int size, int device) {
  return call("hipDeviceGetName", Needs::kInit, [&](Lock&) {
    std::snprintf(name, static_cast<std::size_t>(size), "Fake Device %d", device);
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipDeviceGetPCIBusId(char* id, int size, int device) {
  return call("hipDeviceGetPCIBusId", Needs::kInit, [&](Lock&) {
    std::snprintf(id, static_cast<std::size_t>(size), "0000:%02x:00.0", 0x3A + device);
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  constexpr int kIntegrated = 16;
  return call("hipDeviceGetAttribute", Needs::kInit, [&](Lock&) {
    if (attribute != kIntegrated) return fake::kInvalidValue;
    *value = machine().integrated;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipThreadExchangeStreamCaptureMode(int* mode) {
  return call("hipThreadExchangeStreamCaptureMode", Needs::kInit,
              [&](Lock&) { return fake::exchange_capture_mode(mode); });
}

FAKE_EXPORT int hipGetDevice(int* device) {
  return call("hipGetDevice", Needs::kInit, [&](Lock&) {
    *device = current_device;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipSetDevice(int device) {
  return call("hipSetDevice", Needs::kInit, [&](Lock&) {
    if (machine().context(device) == nullptr) return fake::kInvalidDevice;
    current_device = device;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return call("hipDeviceGetStreamPriorityRange", Needs::kContext, [&](Lock&) {
    *least = 1;
    *greatest = -1;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int hipStreamCreateWithPriority(void** stream, unsigned flags, int /*priority*/) {
  return call("hipStreamCreateWithPriority", Needs::kNoCapture,
              [&](Lock&) { return machine().create_stream(*fake::current_context(), flags, stream); });
}

FAKE_EXPORT int hipStreamDestroy(void* stream) {
  return call("hipStreamDestroy", Needs::kNoCapture, [&](Lock&) { return machine().destroy_stream(stream); });
}

FAKE_EXPORT int hipStreamWaitEvent(void* stream, void* event, unsigned /*flags*/) {
  return call("hipStreamWaitEvent", Needs::kContext,
              [&](Lock& lock) { return machine().wait(lock, stream, event, *fake::current_context()); });
}

FAKE_EXPORT int hipStreamQuery(void* stream) {
  return call("hipStreamQuery", Needs::kNoCapture,
              [&](Lock&) { return machine().query_stream(stream, *fake::current_context()); });
}

FAKE_EXPORT int hipEventCreateWithFlags(void** event, unsigned /*flags*/) {
  return call("hipEventCreateWithFlags", Needs::kNoCapture,
              [&](Lock&) { return machine().create_event(*fake::current_context(), event); });
}

FAKE_EXPORT int hipEventDestroy(void* event) {
  return call("hipEventDestroy", Needs::kNoCapture, [&](Lock&) { return machine().destroy_event(event); });
}

FAKE_EXPORT int hipEventRecord(void* event, void* stream) {
  return call("hipEventRecord", Needs::kContext,
              [&](Lock& lock) { return machine().record(lock, event, stream, *fake::current_context()); });
}

FAKE_EXPORT int hipEventQuery(void* event) {
  return call("hipEventQuery", Needs::kNoCapture, [&](Lock&) { return machine().query_event(event); });
}

FAKE_EXPORT int hipHostRegister(void* at, std::size_t bytes, unsigned /*flags*/) {
  return call("hipHostRegister", Needs::kNoCapture, [&](Lock&) { return machine().register_host(at, bytes); });
}

FAKE_EXPORT int hipHostUnregister(void* at) {
  return call("hipHostUnregister", Needs::kNoCapture, [&](Lock&) { return machine().unregister_host(at); });
}

FAKE_EXPORT int hipMemcpyHtoDAsync(void* to, const void* from, std::size_t bytes, void* stream) {
  const auto address = reinterpret_cast<std::uint64_t>(to);
  return call("hipMemcpyHtoDAsync", Needs::kContext,
              [&](Lock& lock) { return machine().copy(lock, address, from, bytes, stream, *fake::current_context()); });
}
