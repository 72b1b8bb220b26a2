// The controls that tests use; fake_driver.h says what each does.
#include <cstring>

#include "machine.h"

using fake::Machine;

namespace {

Machine& machine() { return Machine::instance(); }

}  // namespace

void fake_reset(std::uint64_t seed) {
  machine().reset(seed);
  fake::forget_current();
}

void fake_set_devices(int count) {
  machine().control([&] { machine().set_devices(count); });
}

void fake_set_timing(std::uint32_t copy_latency_us, std::uint64_t bytes_per_second, std::uint32_t event_latency_us) {
  machine().control([&] {
    machine().copy_latency = std::chrono::microseconds(copy_latency_us);
    machine().bytes_per_second = bytes_per_second;
    machine().event_latency = std::chrono::microseconds(event_latency_us);
  });
}

void fake_set_register_limit(std::uint64_t bytes) {
  machine().control([&] { machine().register_limit = bytes; });
}

void fake_set_cufile(std::uint64_t most_bytes, std::uint32_t latency_us, std::uint32_t module_version) {
  machine().control([&] {
    machine().cufile.most_bytes = most_bytes;
    machine().cufile.latency = std::chrono::microseconds(latency_us);
    machine().cufile.module_version = module_version;
  });
}

void fake_set_integrated(int integrated) {
  machine().control([&] { machine().integrated = integrated; });
}

void fake_pause(int paused) {
  machine().control([&] { machine().pause(paused != 0); });
}

void fake_fail(const char* function, std::uint32_t k, int status, int sticky) {
  machine().control([&] {
    machine().failing = function;
    machine().fails_in = k;
    machine().fails_with = status;
    machine().fails_for_good = sticky != 0;
  });
}

std::uint64_t fake_calls(const char* function) {
  return machine().control([&] { return machine().calls[function]; });
}

void fake_get_counts(FakeCounts* counts) {
  machine().control([&] { *counts = machine().counts(); });
}

const char* fake_violation() {
  thread_local std::string text;
  text = machine().control([&] { return machine().violation; });
  return text.c_str();
}

std::uint64_t fake_allocate(std::uint64_t bytes) {
  return machine().control([&] { return machine().allocate(bytes); });
}

void fake_free(std::uint64_t address) {
  machine().control([&] { machine().free(address); });
}

void fake_read(std::uint64_t from, void* into, std::uint64_t bytes) {
  machine().control([&] { std::memcpy(into, reinterpret_cast<const void*>(from), bytes); });
}

void* fake_foreign_stream(int ordinal, int blocking) {
  return machine().control([&] { return machine().foreign_stream(ordinal, blocking != 0); });
}

void fake_launch(int ordinal, void* stream, std::uint64_t at, std::uint64_t bytes, std::uint32_t duration_us,
                 std::uint8_t value) {
  machine().control([&] {
    machine().launch(ordinal, stream,
                     {.kind = fake::Operation::Kind::kKernel,
                      .to = at,
                      .bytes = bytes,
                      .value = value,
                      .duration = std::chrono::microseconds(duration_us)});
  });
}

void fake_begin_capture(void* stream, int mode) {
  machine().control([&] { machine().begin_capture(stream, mode); });
}

int fake_end_capture(void* stream) {
  return machine().control([&] { return machine().end_capture(stream); });
}

int fake_capture_mode() { return fake::capture_mode(); }

void* fake_current_context() { return fake::current_context(); }
void fake_make_current(int ordinal) { fake::make_current(ordinal); }
std::uint64_t fake_context_depth() { return fake::context_depth(); }
int fake_last_error() { return fake::last_error(); }

const char* fake::status_text(int status) {
  switch (status) {
    case fake::kSuccess:
      return "no error";
    case fake::kInvalidValue:
      return "invalid argument";
    case fake::kOutOfMemory:
      return "out of memory";
    case fake::kNotInitialized:
      return "initialization error";
    case fake::kNoDevice:
      return "no device is detected";
    case fake::kInvalidDevice:
      return "invalid device ordinal";
    case fake::kInvalidContext:
      return "invalid device context";
    case fake::kInvalidHandle:
      return "invalid resource handle";
    case fake::kNotReady:
      return "device not ready";
    case fake::kIllegalAddress:
      return "an illegal memory access was encountered";
    case fake::kAlreadyRegistered:
      return "part or all of the memory is registered already";
    case fake::kNotRegistered:
      return "the memory is not registered";
    case fake::kCaptureUnsupported:
      return "operation not permitted when stream is capturing";
    default:
      return nullptr;
  }
}
