// The device of the fake driver: one thread that takes the streams' work, in order inside each, by lot between them.
#include <algorithm>
#include <cstring>

#include "machine.h"

namespace fake {
namespace {

constexpr int kFreshByte = 0xCD;
constexpr int kFreedByte = 0xDD;

bool overlap(const Operation& a, const Operation& b) { return a.to < b.to + b.bytes && b.to < a.to + a.bytes; }

std::byte* pointer(std::uint64_t address) { return reinterpret_cast<std::byte*>(address); }

}  // namespace

std::uint64_t Machine::allocate(std::uint64_t bytes) {
  auto memory = std::make_unique<std::byte[]>(bytes);
  std::memset(memory.get(), kFreshByte, bytes);
  const auto address = reinterpret_cast<std::uint64_t>(memory.get());
  memory_[address] = {.bytes = std::move(memory), .size = bytes};
  return address;
}

void Machine::free(std::uint64_t address) {
  Memory& memory = memory_.at(address);
  memory.freed = true;
  std::memset(memory.bytes.get(), kFreedByte, memory.size);
}

Memory* Machine::memory_at(std::uint64_t address, std::uint64_t bytes) {
  auto after = memory_.upper_bound(address);
  if (after == memory_.begin()) return nullptr;
  auto& [begin, memory] = *--after;
  return address + bytes <= begin + memory.size ? &memory : nullptr;
}

bool Machine::check_free(std::uint64_t to, std::uint64_t bytes) {
  const Memory* memory = memory_at(to, bytes);
  if (memory == nullptr) {
    violate("a read went outside of any allocation");
    return false;
  }
  if (memory->freed) {
    violate("a read went into freed memory");
    return false;
  }
  for (const Stream& stream : streams_) {
    for (const Operation& other : stream.queue) {
      if (other.kind != Operation::Kind::kKernel || other.to >= to + bytes || to >= other.to + other.bytes) continue;
      violate("a read went into memory that a kernel still used");
      return false;
    }
  }
  return true;
}

void Machine::launch(int ordinal, void* stream, Operation kernel) {
  Stream* on = find_stream(stream, *context(ordinal));
  enqueue(*on, std::move(kernel));
}

void Machine::violate(std::string what) {
  ++counts_.violations;
  violation = std::move(what);
}

// `stream` waits for what is queued on `other` now.
void Machine::queue_behind(Stream& stream, Stream& other) {
  if (other.queue.empty()) return;
  auto mark = std::make_shared<Mark>();
  other.queue.push_back({.kind = Operation::Kind::kRecord, .number = next_number_++, .mark = mark});
  stream.queue.push_back({.kind = Operation::Kind::kWait, .number = next_number_++, .mark = std::move(mark)});
}

void Machine::enqueue(Stream& stream, Operation operation) {
  Stream& standard = *stream.context->default_stream;
  if (&stream == &standard) {
    for (Stream& other : streams_) {
      if (&other != &stream && other.context == stream.context && other.blocking) queue_behind(stream, other);
    }
  } else if (stream.blocking) {
    queue_behind(stream, standard);
  }
  operation.number = next_number_++;
  operation.queued = Clock::now();
  stream.queue.push_back(std::move(operation));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
}

void Machine::pause(bool paused) {
  paused_ = paused;
  changed_.notify_all();
}

void Machine::stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void Machine::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    Clock::time_point next_due = Clock::time_point::max();
    if (!paused_ && step(&next_due)) {
      changed_.notify_all();
      // Whoever waits for the lock gets it: nothing else would make the order of two threads' calls vary.
      lock.unlock();
      std::this_thread::yield();
      lock.lock();
    } else if (next_due == Clock::time_point::max()) {
      changed_.wait(lock);
    } else {
      changed_.wait_until(lock, next_due);
    }
  }
}

// Does one piece of work that is due, by lot; or says when the next one is.
bool Machine::step(Clock::time_point* next_due) {
  std::vector<Stream*> ready;
  const auto now = Clock::now();
  for (Stream& stream : streams_) {
    if (stream.queue.empty() || stream.context->lost != kSuccess) continue;
    Operation& head = stream.queue.front();
    if (head.kind == Operation::Kind::kWait && !head.mark->done) continue;
    if (!head.started) {
      head.started = true;
      head.due = std::max(head.queued, stream.ended) + head.duration;
    }
    if (head.due <= now) {
      ready.push_back(&stream);
    } else {
      *next_due = std::min(*next_due, head.due);
    }
  }
  if (ready.empty()) return false;
  Stream& stream = *ready[std::uniform_int_distribution<std::size_t>(0, ready.size() - 1)(random_)];
  Operation& operation = stream.queue.front();
  stream.ended = operation.kind == Operation::Kind::kWait ? now : operation.due;
  execute(stream, operation);
  if (stream.context->lost != kSuccess) return true;
  stream.queue.pop_front();
  if (stream.destroyed && stream.queue.empty()) {
    streams_.remove_if([&](const Stream& other) { return &other == &stream; });
  }
  return true;
}

void Machine::execute(Stream& stream, Operation& operation) {
  switch (operation.kind) {
    case Operation::Kind::kCopy:
      execute_copy(*stream.context, operation);
      break;
    case Operation::Kind::kKernel:
      std::memset(pointer(operation.to), operation.value, operation.bytes);
      break;
    case Operation::Kind::kRecord:
      operation.mark->done = true;
      break;
    case Operation::Kind::kWait:
      break;
  }
}

void Machine::execute_copy(Context& context, const Operation& copy) {
  if (fails_in != 0 && failing == "copy" && --fails_in == 0) {
    context.lost = fails_with;
    return;
  }
  const Memory* memory = memory_at(copy.to, copy.bytes);
  if (memory == nullptr) {
    violate("a copy went outside of any allocation");
    context.lost = kIllegalAddress;
    return;
  }
  if (memory->freed) return violate("a copy went into freed memory");
  for (const Stream& stream : streams_) {
    for (const Operation& other : stream.queue) {
      if (other.kind == Operation::Kind::kKernel && other.number < copy.number && overlap(other, copy)) {
        violate("a copy went into memory that a kernel still used");
      }
    }
  }
  bool partly = false;
  if (copy.from != nullptr && !registered(copy.from, copy.bytes, &partly)) {
    return violate("a copy read memory that was unregistered meanwhile");
  }
  std::memcpy(pointer(copy.to), copy.from != nullptr ? copy.from : copy.staged.data(), copy.bytes);
  ++counts_.copies;
  counts_.copied_bytes += copy.bytes;
}

}  // namespace fake
