// A driver library without a device: it exports the functions of a vendor's driver that weightstream uses, and these
// controls. Tests name it by WEIGHTSTREAM_CUDA_DRIVER or WEIGHTSTREAM_HIP_DRIVER, or open it themselves.
//
// What it keeps of a real one:
//   - "device memory" is host memory of an allocator here; an address outside an allocation loses the context,
//   - a copy runs later, behind the caller, and reads its source then: using the source again too early shows,
//   - a copy out of memory that is not registered is synchronous, as for pageable memory,
//   - a stream holds a thousand pieces of work: a call that queues another waits until one of them is done,
//   - inside a stream work runs in order; between streams in an order drawn from the seed. One thread plays them all:
//     with a thread for each, the order would be the scheduler's,
//   - events complete late; a stream waits for an event as it was when the wait was queued,
//   - the default stream waits for blocking streams, and they for it,
//   - while a thread captures a graph, calls that could make it wait are refused and end the capture, unless the thread
//     that calls has said that it may: as cuThreadExchangeStreamCaptureMode() documents it,
//   - after a fork nothing works in the child.
//
// What a real one leaves undefined is a violation here, counted and said: a copy into memory that a kernel queued
// earlier still uses, a copy into freed memory, memory unregistered under a copy, a context released under its streams.
//
// The library of CUDA is one of cuFile as well (cufile_api.cc), named by WEIGHTSTREAM_CUFILE_LIBRARY. Its reads write
// to device memory at once, whatever is queued: memory that a kernel still uses then, freed memory, and files that were
// closed before they were deregistered are violations.
//
// Knows nothing of weightstream: `c++ -std=c++20 -shared -fPIC -pthread machine.cc device.cc controls.cc cuda_api.cc
// cufile_api.cc` (or hip_api.cc in place of both) builds it.
#pragma once

#include <cstdint>

#define FAKE_EXPORT extern "C" __attribute__((visibility("default")))

struct FakeCounts {
  std::uint64_t registered_bytes;
  std::uint64_t streams;  // alive; without those of fake_foreign_stream()
  std::uint64_t events;  // alive
  std::uint64_t contexts;  // times that primary contexts are retained
  std::uint64_t copies;  // executed
  std::uint64_t copied_bytes;
  std::uint64_t pageable_copies;  // queued from memory that is not registered
  std::uint64_t violations;
  std::uint64_t calls_after_fork;
  std::uint64_t cufile_files;  // registered
  std::uint64_t cufile_reads;  // that brought bytes
  std::uint64_t cufile_bytes;  // that they brought
  std::uint64_t cufile_most_at_once;  // reads
};

// Ends all work and forgets everything: memory, handles, counters, settings, captures. Two devices, no latency. Not
// while any other thread uses the library.
FAKE_EXPORT void fake_reset(std::uint64_t seed);
FAKE_EXPORT void fake_set_devices(int count);
// How long a copy takes (half to one and a half times the latency, and its bytes; 0 bytes a second: no time), and how
// long after the work before it an event completes.
FAKE_EXPORT void fake_set_timing(std::uint32_t copy_latency_us, std::uint64_t bytes_per_second,
                                 std::uint32_t event_latency_us);
// Registering more than this in all is out of memory.
FAKE_EXPORT void fake_set_register_limit(std::uint64_t bytes);
// A read of cuFile brings at most this many bytes, and takes this long; the version of its kernel module (0:
// none; UINT32_MAX: none, but peer-to-peer DMA).
FAKE_EXPORT void fake_set_cufile(std::uint64_t most_bytes, std::uint32_t latency_us, std::uint32_t module_version);
// Whether the devices share the memory of the host.
FAKE_EXPORT void fake_set_integrated(int integrated);
// While paused no work runs.
FAKE_EXPORT void fake_pause(int paused);

// The k-th call of `function` from now on, counted from 1, fails with `status` and does nothing else (cuFileRead: with
// that errno, where it is below 5000). Sticky: the
// context that is current then is lost and answers every later call with it. The function "copy" stands for the
// execution of a copy, whose failure is always sticky. One failure is set at a time; k of 0: none.
FAKE_EXPORT void fake_fail(const char* function, std::uint32_t k, int status, int sticky);
// Calls of `function` since the reset, failed ones included.
FAKE_EXPORT std::uint64_t fake_calls(const char* function);
FAKE_EXPORT void fake_get_counts(FakeCounts* counts);
// What the last violation was, or "".
FAKE_EXPORT const char* fake_violation();

// Device memory, filled with 0xCD. fake_free() fills it with 0xDD and never gives its addresses out again.
FAKE_EXPORT std::uint64_t fake_allocate(std::uint64_t bytes);
FAKE_EXPORT void fake_free(std::uint64_t address);
// Reads device memory as it is now, whatever is still queued.
FAKE_EXPORT void fake_read(std::uint64_t from, void* into, std::uint64_t bytes);

// A stream of somebody else on a device (blocking, as frameworks make them, if `blocking`). Lives until the reset.
FAKE_EXPORT void* fake_foreign_stream(int ordinal, int blocking);
// Queues a kernel that uses [at, at + bytes) for a while and at its end fills it with `value`. Null is the default
// stream of the device.
FAKE_EXPORT void fake_launch(int ordinal, void* stream, std::uint64_t at, std::uint64_t bytes,
                             std::uint32_t duration_us, std::uint8_t value);

// The calling thread captures a graph on a foreign stream, in a mode of the driver's (0: global, 1: of the thread, 2:
// relaxed). What is queued there meanwhile runs all the same. The end returns 0, or 901 when the capture was ended by a
// call that it does not permit.
FAKE_EXPORT void fake_begin_capture(void* stream, int mode);
FAKE_EXPORT int fake_end_capture(void* stream);
// The mode of this thread.
FAKE_EXPORT int fake_capture_mode();

// What is current on this thread: a context of CUDA (null: none), a device and its context of HIP.
FAKE_EXPORT void* fake_current_context();
// Makes the context of another device current on this thread, as other code in the process would.
FAKE_EXPORT void fake_make_current(int ordinal);
// How many contexts are on this thread's stack; 0 for HIP.
FAKE_EXPORT std::uint64_t fake_context_depth();
// HIP: the last failure on this thread that nobody asked for yet. 0 for CUDA.
FAKE_EXPORT int fake_last_error();
