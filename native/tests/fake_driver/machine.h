// The machine behind the fake driver: contexts, streams, events, memory, and one thread that plays the device.
// Every member is guarded by `mutex`; the functions of a vendor take it through call().
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "fake_driver.h"

namespace fake {

using Clock = std::chrono::steady_clock;

// Statuses; the vendors number them alike.
inline constexpr int kSuccess = 0;
inline constexpr int kInvalidValue = 1;
inline constexpr int kOutOfMemory = 2;
inline constexpr int kNotInitialized = 3;
inline constexpr int kNoDevice = 100;
inline constexpr int kInvalidDevice = 101;
inline constexpr int kInvalidContext = 201;
inline constexpr int kInvalidHandle = 400;
inline constexpr int kNotReady = 600;
inline constexpr int kIllegalAddress = 700;
inline constexpr int kAlreadyRegistered = 712;
inline constexpr int kNotRegistered = 713;
inline constexpr int kCaptureUnsupported = 900;
inline constexpr int kCaptureInvalidated = 901;

enum CaptureMode { kCaptureGlobal, kCaptureThreadLocal, kCaptureRelaxed };

struct Context;

// Whether the work that an event was recorded behind is done. Shared by all who wait for it.
struct Mark {
  bool done = false;
};

struct Operation {
  enum class Kind { kCopy, kKernel, kRecord, kWait };
  Kind kind;
  std::uint64_t number = 0;  // in the order of queueing, over all streams
  std::uint64_t to = 0;      // device memory that is written
  std::uint64_t bytes = 0;
  const std::byte* from = nullptr;
  std::vector<std::byte> staged = {};  // the source, where it was not registered
  std::uint8_t value = 0;
  std::shared_ptr<Mark> mark = nullptr;
  Clock::duration duration = {};
  Clock::time_point queued = {};
  bool started = false;
  Clock::time_point due = {};
};

struct Stream {
  Context* context;
  bool blocking;
  bool foreign;
  bool destroyed = false;  // goes when its work is done
  std::deque<Operation> queue = {};
  Clock::time_point ended = {};  // when the last one was over: not when the thread came to it
};

struct Event {
  Context* context;
  std::shared_ptr<Mark> mark = nullptr;
};

struct Context {
  int ordinal;
  std::uint64_t retained = 0;
  int lost = kSuccess;
  Stream* default_stream = nullptr;
};

// A graph that is being captured.
struct Capture {
  void* stream;
  std::thread::id by;
  int mode;
  bool invalidated = false;
};

struct Memory {
  std::unique_ptr<std::byte[]> bytes;
  std::uint64_t size;
  bool freed = false;
};

// A file that cuFile knows, and what it was when it was registered.
struct CuFileHandle {
  int fd;
  std::uint64_t device;
  std::uint64_t inode;
  std::uint64_t reads_under_way = 0;
};

// What cufile_api.cc keeps. The counters are those of FakeCounts.
struct CuFileState {
  bool open = false;
  std::list<CuFileHandle> files = {};
  std::uint64_t most_bytes = UINT64_MAX;
  Clock::duration latency = {};
  std::uint32_t module_version = 2;
  std::uint64_t reads = 0;
  std::uint64_t bytes = 0;
  std::uint64_t at_once = 0;
  std::uint64_t most_at_once = 0;
};

// What has to hold before a function does anything. kContext: a current one. kNoCapture: that, and no capture that the
// call would disturb. Which calls do is documented for allocations and queries of events only; all count here that do
// not just queue work.
enum class Needs { kNothing, kInit, kContext, kNoCapture };

class Machine {
 public:
  static Machine& instance();
  void reset(std::uint64_t seed);

  // Runs one function of the driver: counts it, fails it if that was asked for, and checks what it needs.
  template <typename Body>
  int call(const char* name, Needs needs, Context* current, Body body) {
    if (in_forked_child()) {
      ++calls_after_fork_;
      return kNotInitialized;
    }
    std::unique_lock lock(mutex_);
    if (const int refused = admit(name, needs, current); refused != kSuccess) return refused;
    return body(lock);
  }
  // The controls, which are no functions of the driver.
  template <typename Body>
  auto control(Body body) {
    const std::lock_guard lock(mutex_);
    return body();
  }

  // --- What call() and control() run ---
  int init();
  void set_devices(int count);
  [[nodiscard]] int device_count() const { return static_cast<int>(contexts_.size()); }
  [[nodiscard]] Context* context(int ordinal) const;
  int retain(Context& context);
  int release(Context& context);
  int create_stream(Context& context, unsigned flags, void** stream);
  int destroy_stream(void* handle);
  int query_stream(void* handle, Context& context);
  int create_event(Context& context, void** event);
  int destroy_event(void* handle);
  int query_event(void* handle);
  int record(std::unique_lock<std::mutex>& lock, void* event, void* stream, Context& context);
  int wait(std::unique_lock<std::mutex>& lock, void* stream, void* event, Context& context);
  int register_host(void* at, std::uint64_t bytes);
  int unregister_host(void* at);
  int copy(std::unique_lock<std::mutex>& lock, std::uint64_t to, const void* from, std::uint64_t bytes, void* stream,
           Context& context);

  // Whether [to, to + bytes) is memory that nothing else uses: what is written there at once goes nowhere else.
  bool check_free(std::uint64_t to, std::uint64_t bytes);
  void violate(std::string what);

  [[nodiscard]] FakeCounts counts() const;
  std::uint64_t allocate(std::uint64_t bytes);
  void free(std::uint64_t address);
  void* foreign_stream(int ordinal, bool blocking);
  void launch(int ordinal, void* stream, Operation kernel);
  void begin_capture(void* stream, int mode);
  int end_capture(void* stream);

  // Set by controls.
  Clock::duration copy_latency{};
  Clock::duration event_latency{};
  std::uint64_t bytes_per_second = 0;
  std::uint64_t register_limit = UINT64_MAX;
  int integrated = 0;
  std::string failing;
  std::uint32_t fails_in = 0;
  int fails_with = 0;
  bool fails_for_good = false;
  std::map<std::string, std::uint64_t> calls;
  std::string violation;
  CuFileState cufile;
  void pause(bool paused);

 private:
  [[nodiscard]] bool in_forked_child() const;
  int admit(const char* name, Needs needs, Context* current);
  bool disturbs_capture();
  Stream* find_stream(void* handle, Context& context);
  Event* find_event(void* handle);
  int wait_for_room(std::unique_lock<std::mutex>& lock, const Stream& stream);
  void enqueue(Stream& stream, Operation operation);
  void queue_behind(Stream& stream, Stream& other);
  [[nodiscard]] Memory* memory_at(std::uint64_t address, std::uint64_t bytes);
  [[nodiscard]] bool registered(const std::byte* at, std::uint64_t bytes, bool* partly) const;
  void execute(Stream& stream, Operation& operation);
  void execute_copy(Context& context, const Operation& copy);
  void run();
  bool step(Clock::time_point* next_due);
  void stop();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::thread thread_;
  bool stopping_ = false;
  bool paused_ = false;
  bool initialised_ = false;
  int dead_ = kSuccess;  // every call of the process fails with it
  std::atomic<pid_t> process_ = 0;
  std::atomic<std::uint64_t> calls_after_fork_ = 0;
  std::mt19937_64 random_;
  std::uint64_t next_number_ = 0;
  std::vector<std::unique_ptr<Context>> contexts_;
  std::list<Stream> streams_;
  std::list<Event> events_;
  std::map<std::uint64_t, Memory> memory_;
  std::map<const std::byte*, std::uint64_t> registered_;
  std::vector<Capture> captures_;
  FakeCounts counts_{};
};

// Of the calling thread.
int exchange_capture_mode(int* mode);
int capture_mode();

// What each vendor's own file defines: what is current on this thread.
Context* current_context();
void make_current(int ordinal);
void forget_current();
std::uint64_t context_depth();
int last_error();

// The texts that both vendors share; null: no such status.
const char* status_text(int status);

}  // namespace fake
