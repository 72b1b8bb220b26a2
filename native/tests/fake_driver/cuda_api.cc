// The functions of the CUDA driver API, by their exported names.
#include <cstdio>
#include <cstring>
#include <vector>

#include "machine.h"

using fake::Context;
using fake::Machine;
using fake::Needs;
using Lock = std::unique_lock<std::mutex>;

namespace {

thread_local std::vector<Context*> contexts;  // current ones of this thread, innermost last

template <typename Body>
int call(const char* name, Needs needs, Body body) {
  return Machine::instance().call(name, needs, fake::current_context(), body);
}

Machine& machine() { return Machine::instance(); }

struct Name {
  int status;
  const char* text;
};

constexpr Name kNames[] = {{fake::kSuccess, "CUDA_SUCCESS"},
                           {fake::kInvalidValue, "CUDA_ERROR_INVALID_VALUE"},
                           {fake::kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY"},
                           {fake::kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED"},
                           {fake::kNoDevice, "CUDA_ERROR_NO_DEVICE"},
                           {fake::kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE"},
                           {fake::kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT"},
                           {fake::kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE"},
                           {fake::kNotReady, "CUDA_ERROR_NOT_READY"},
                           {fake::kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS"},
                           {fake::kAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED"},
                           {fake::kNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED"},
                           {fake::kCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"}};

}  // namespace

Context* fake::current_context() { return contexts.empty() ? nullptr : contexts.back(); }
void fake::make_current(int ordinal) { contexts.push_back(machine().context(ordinal)); }
void fake::forget_current() { contexts.clear(); }
std::uint64_t fake::context_depth() { return contexts.size(); }
int fake::last_error() { return kSuccess; }

FAKE_EXPORT int cuGetErrorName(int status, const char** text) {
  for (const Name& name : kNames) {
    if (name.status == status) {
      *text = name.text;
      return fake::kSuccess;
    }
  }
  *text = nullptr;
  return fake::kInvalidValue;
}

FAKE_EXPORT int cuGetErrorString(int status, const char** text) {
  *text = fake::status_text(status);
  return *text != nullptr ? fake::kSuccess : fake::kInvalidValue;
}

FAKE_EXPORT int cuInit(unsigned flags) {
  return call("cuInit", Needs::kNothing, [&](Lock&) { return flags != 0 ? fake::kInvalidValue : machine().init(); });
}

FAKE_EXPORT int cuDriverGetVersion(int* version) {
#ifdef FAKE_OLD_DRIVER
  *version = 10020;
#else
  *version = 12080;
#endif
  return fake::kSuccess;
}

FAKE_EXPORT int cuDeviceGetCount(int* count) {
  return call("cuDeviceGetCount", Needs::kInit, [&](Lock&) {
    *count = machine().device_count();
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuDeviceGet(int* device, int ordinal) {
  return call("cuDeviceGet", Needs::kInit, [&](Lock&) {
    *device = ordinal;
    return machine().context(ordinal) != nullptr ? fake::kSuccess : fake::kInvalidDevice;
  });
}

FAKE_EXPORT int cuDeviceGetName(char* name, int size, int device) {
  return call("cuDeviceGetName", Needs::kInit, [&](Lock&) {
    std::snprintf(name, static_cast<std::size_t>(size), "Fake Device %d", device);
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuDeviceGetPCIBusId(char* id, int size, int device) {
  return call("cuDeviceGetPCIBusId", Needs::kInit, [&](Lock&) {
    std::snprintf(id, static_cast<std::size_t>(size), "0000:%02X:00.0", 0x3A + device);
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  constexpr int kIntegrated = 18;
  return call("cuDeviceGetAttribute", Needs::kInit, [&](Lock&) {
    if (attribute != kIntegrated) return fake::kInvalidValue;
    *value = machine().integrated;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuThreadExchangeStreamCaptureMode(int* mode) {
  return call("cuThreadExchangeStreamCaptureMode", Needs::kInit,
              [&](Lock&) { return fake::exchange_capture_mode(mode); });
}

FAKE_EXPORT int cuDevicePrimaryCtxRetain(void** context, int device) {
  return call("cuDevicePrimaryCtxRetain", Needs::kInit, [&](Lock&) {
    Context* found = machine().context(device);
    *context = found;
    return found != nullptr ? machine().retain(*found) : fake::kInvalidDevice;
  });
}

#ifndef FAKE_OLD_DRIVER
FAKE_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) {
  return call("cuDevicePrimaryCtxRelease_v2", Needs::kInit, [&](Lock&) {
    Context* found = machine().context(device);
    return found != nullptr ? machine().release(*found) : fake::kInvalidDevice;
  });
}
#endif

FAKE_EXPORT int cuCtxPushCurrent_v2(void* context) {
  return call("cuCtxPushCurrent_v2", Needs::kInit, [&](Lock&) {
    if (context == nullptr || static_cast<Context*>(context)->retained == 0) return fake::kInvalidContext;
    contexts.push_back(static_cast<Context*>(context));
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuCtxPopCurrent_v2(void** context) {
  return call("cuCtxPopCurrent_v2", Needs::kInit, [&](Lock&) {
    if (contexts.empty()) return fake::kInvalidContext;
    *context = contexts.back();
    contexts.pop_back();
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  return call("cuCtxGetStreamPriorityRange", Needs::kContext, [&](Lock&) {
    *least = 0;
    *greatest = -5;
    return fake::kSuccess;
  });
}

FAKE_EXPORT int cuStreamCreateWithPriority(void** stream, unsigned flags, int /*priority*/) {
  return call("cuStreamCreateWithPriority", Needs::kNoCapture,
              [&](Lock&) { return machine().create_stream(*fake::current_context(), flags, stream); });
}

FAKE_EXPORT int cuStreamDestroy_v2(void* stream) {
  return call("cuStreamDestroy_v2", Needs::kNoCapture, [&](Lock&) { return machine().destroy_stream(stream); });
}

FAKE_EXPORT int cuStreamWaitEvent(void* stream, void* event, unsigned /*flags*/) {
  return call("cuStreamWaitEvent", Needs::kContext,
              [&](Lock& lock) { return machine().wait(lock, stream, event, *fake::current_context()); });
}

FAKE_EXPORT int cuStreamQuery(void* stream) {
  return call("cuStreamQuery", Needs::kNoCapture,
              [&](Lock&) { return machine().query_stream(stream, *fake::current_context()); });
}

FAKE_EXPORT int cuEventCreate(void** event, unsigned /*flags*/) {
  return call("cuEventCreate", Needs::kNoCapture,
              [&](Lock&) { return machine().create_event(*fake::current_context(), event); });
}

FAKE_EXPORT int cuEventDestroy_v2(void* event) {
  return call("cuEventDestroy_v2", Needs::kNoCapture, [&](Lock&) { return machine().destroy_event(event); });
}

FAKE_EXPORT int cuEventRecord(void* event, void* stream) {
  return call("cuEventRecord", Needs::kContext,
              [&](Lock& lock) { return machine().record(lock, event, stream, *fake::current_context()); });
}

FAKE_EXPORT int cuEventQuery(void* event) {
  return call("cuEventQuery", Needs::kNoCapture, [&](Lock&) { return machine().query_event(event); });
}

FAKE_EXPORT int cuMemHostRegister_v2(void* at, std::size_t bytes, unsigned /*flags*/) {
  return call("cuMemHostRegister_v2", Needs::kNoCapture, [&](Lock&) { return machine().register_host(at, bytes); });
}

FAKE_EXPORT int cuMemHostUnregister(void* at) {
  return call("cuMemHostUnregister", Needs::kNoCapture, [&](Lock&) { return machine().unregister_host(at); });
}

FAKE_EXPORT int cuMemcpyHtoDAsync_v2(unsigned long long to, const void* from, std::size_t bytes, void* stream) {
  return call("cuMemcpyHtoDAsync_v2", Needs::kContext,
              [&](Lock& lock) { return machine().copy(lock, to, from, bytes, stream, *fake::current_context()); });
}
