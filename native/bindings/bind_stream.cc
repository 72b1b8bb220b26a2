#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/device_memory.h"
#include "bindings/dlpack.h"
#include "bindings/errors.h"
#include "bindings/host_tensor.h"
#include "bindings/log_lines.h"
#include "bindings/python_owner.h"
#include "device/accelerator.h"
#include "device/driver.h"
#include "engine/checkpoint.h"
#include "engine/device_target.h"
#include "engine/stream.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

// How long next() may keep signals waiting.
constexpr auto kSignalCheck = std::chrono::milliseconds(50);

// The process that a device was used in, last: only there can the pool have memory, and there is no need to make it.
std::atomic<pid_t> device_process{0};
bool device_was_used() { return device_process == ::getpid(); }

// What an item is in the consumer's terms.
struct Wanted {
  std::uint32_t tensor;             // index in Checkpoint::tensors()
  std::vector<std::int64_t> shape;  // of a part of the tensor; empty together with whole == true
  bool whole;
};

// Shapes leave here in units of what the framework is handed: elements, or bytes where several elements share one
// (F4: the last dimension halves; F6: a flat run of bytes, as no framework has a 6-bit element).
std::vector<std::int64_t> packed_shape(std::vector<std::int64_t> shape, Dtype dtype, std::uint64_t bytes) {
  if (info(dtype).bits >= 8) return shape;
  if (dtype == Dtype::kF4 && !shape.empty() && shape.back() % 2 == 0) {
    shape.back() /= 2;
    return shape;
  }
  return {static_cast<std::int64_t>(bytes)};
}

// A tensor without elements may have any dimensions in a file (the format multiplies them, and zero is zero), but
// frameworks compute strides from them in 64-bit signed arithmetic, and fail untidily where that overflows.
void check_representable(std::string_view name, const std::vector<std::int64_t>& shape) {
  std::int64_t extent = 16;  // bytes of the largest element, and some
  for (const auto dim : shape) {
    if (dim >= 0 && !__builtin_mul_overflow(extent, std::max<std::int64_t>(dim, 1), &extent)) continue;
    throw CoreError{
        {.code = ErrorCode::kFormat,
         .message = "tensor '" + std::string(name) +
                    "' has no elements, but dimensions too large for any framework; leave it out by names="}};
  }
}

// Where a framework wants its tensors: a device by the ordinal that the process sees it by.
struct PyDevice {
  Vendor vendor;
  int ordinal;
  std::uint64_t limit;  // bytes; 0: a default
  bool packed;
  DlpackDevice dlpack;

  // Opens it.
  [[nodiscard]] DeviceTarget target() const {
    device_process = ::getpid();
    auto driver = value_or_throw(Driver::of_process(vendor));
    auto accelerator = value_or_throw(Accelerator::open(std::move(driver), ordinal));
    DeviceTarget target{.accelerator = std::move(accelerator)};
    target.device_limit = limit;
    target.packed = packed;
    return target;
  }
};

class PyStream {
 public:
  PyStream(std::shared_ptr<Checkpoint> checkpoint, std::unique_ptr<Stream> stream, std::vector<Wanted> wanted,
           const std::optional<PyDevice>& device)
      : checkpoint_(std::move(checkpoint)), stream_(std::move(stream)), wanted_(std::move(wanted)) {
    if (const auto* groups = stream_->device_groups()) memory_.emplace(*groups, device->dlpack);
  }
  ~PyStream() { close(); }

  // Waits for the next batch; empty at the end. Interruptible by signals.
  std::vector<ReadyItem> next() {
    std::vector<ReadyItem> batch;
    while (!next_within(batch, kSignalCheck)) {
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    return batch;
  }

  bool on_device() const { return memory_.has_value(); }

  nb::list due(std::uint64_t most_bytes) {
    nb::list result;
    const DeviceGroups::Span due = stream_->due(most_bytes);
    for (auto i = due.begin; i < due.end; ++i) {
      const DeviceGroup& group = stream_->device_groups()->groups[i];
      if (group.items > 1) {
        result.append(nb::make_tuple(group.bytes, nb::none(), nb::none(), nb::none()));
        continue;
      }
      Described d = describe(group.first_item, group.bytes);
      result.append(nb::make_tuple(group.bytes, std::move(d.name), info(d.dtype).name.data(), to_tuple(d.shape)));
    }
    return result;
  }

  void provide(const nb::list& memory, const std::vector<std::uint64_t>& addresses, std::uintptr_t allocated_on) {
    if (!on_device() || memory.size() != addresses.size()) throw nb::value_error("an address for each memory");
    memory_->check_open();
    const auto before = memory_->size();
    if (addresses.size() > stream_->device_groups()->groups.size() - before) throw nb::value_error("more than is due");
    for (std::size_t i = 0; i < addresses.size(); ++i) memory_->add(nb::borrow(memory[i]), addresses[i]);
    auto provided = [&] {
      const nb::gil_scoped_release release;
      return stream_->provide(addresses, allocated_on);
    }();
    if (provided) return;
    memory_->forget(before);
    throw CoreError{std::move(provided).error()};
  }

  // Whether anything that needs no more memory is still to be handed out: waiting brings it.
  bool outstanding() const {
    if (!on_device()) return false;
    const DeviceGroups& groups = *stream_->device_groups();
    auto covered = static_cast<std::uint32_t>(size());  // all reads of the items before this have memory
    for (std::uint32_t read = 0; read < groups.of_read.size(); ++read) {
      if (groups.of_read[read].end <= memory_->size()) continue;
      covered = stream_->read(read).first_item;
      break;
    }
    // Those of no bytes are handed out at any time.
    const auto begin = groups.of_item.begin();
    const auto empty = std::count(begin, begin + covered, DeviceGroups::kNone);
    return taken_ < covered - static_cast<std::uint64_t>(empty);
  }

  nb::object next_device(bool wait) {
    std::vector<ReadyItem> batch;
    if (wait) {
      batch = next();
    } else if (!next_within(batch, {})) {
      return nb::none();
    }
    nb::list result;
    for (const auto& item : batch) {
      const std::uint64_t bytes = stream_->items()[item.index].range.size();
      Described d = describe(item.index, bytes);
      const char* dtype = info(d.dtype).name.data();
      if (bytes == 0) {
        result.append(nb::make_tuple(std::move(d.name), nb::none(), nb::none(), dtype, to_tuple(d.shape)));
        continue;
      }
      if (memory_->alone(item.index)) {
        result.append(nb::make_tuple(std::move(d.name), memory_->take(item.index), nb::none(), nb::none(), nb::none()));
      } else {
        const DlpackType type = dlpack_type(d.dtype);
        nb::object view = type.needs_view ? nb::object(nb::str(dtype)) : nb::none();
        nb::object part = memory_->take_part(item.index, type, std::move(d.shape));
        result.append(nb::make_tuple(std::move(d.name), nb::none(), std::move(part), std::move(view), nb::none()));
      }
      ++taken_;
    }
    return nb::object(result);
  }

  nb::object next_dlpack(bool wait) {
    std::vector<ReadyItem> batch;
    if (wait) {
      batch = next();
    } else if (!next_within(batch, {})) {
      return nb::none();
    }
    nb::list result;
    for (auto& item : batch) {
      Described d = describe(item.index, item.lease ? item.lease.size() : 0);
      const DlpackType type = dlpack_type(d.dtype);
      nb::object view = type.needs_view ? nb::object(nb::str(info(d.dtype).name.data())) : nb::none();
      nb::object capsule = to_dlpack(HostTensor(std::move(item.lease), alignment(d.dtype)), type, std::move(d.shape));
      result.append(nb::make_tuple(d.name, std::move(capsule), std::move(view)));
    }
    return nb::object(result);
  }

  nb::list next_buffers() {
    nb::list result;
    for (auto& item : next()) {
      const Described d = describe(item.index, item.lease ? item.lease.size() : 0);
      result.append(nb::make_tuple(d.name, nb::cast(HostTensor(std::move(item.lease), alignment(d.dtype))),
                                   to_tuple(d.shape), nb::str(info(d.dtype).name.data())));
    }
    return result;
  }

  void close() {
    auto memory = memory_ ? memory_->let_go() : nullptr;
    const nb::gil_scoped_release release;
    stream_->close(std::move(memory));
  }

  nb::dict stats() const {
    const StreamStats stats = stream_->stats();
    nb::dict result;
    result["tensors"] = stats.items;
    result["bytes"] = stats.bytes;
    result["bytes_total"] = stats.bytes_total;
    result["bytes_read"] = stats.bytes_read;
    result["reads"] = stats.reads;
    result["retries"] = stats.retries;
    result["seconds"] = stats.seconds;
    result["first_tensor_seconds"] = stats.first_item_seconds;
    result["wait_storage_seconds"] = stats.wait_storage_seconds;
    result["wait_device_seconds"] = stats.wait_device_seconds;
    result["wait_consumer_seconds"] = stats.wait_consumer_seconds;
    result["peak_host_bytes"] = stats.peak_host_bytes;
    result["peak_device_bytes"] = stats.peak_device_bytes;
    nb::dict readers;
    for (const auto kind : kReaderKinds) {
      const auto bytes = stats.bytes_by_reader[static_cast<std::size_t>(kind)];
      if (bytes > 0) readers[name(kind)] = bytes;
    }
    result["readers"] = std::move(readers);
    return result;
  }

  nb::list trace() const {
    nb::list result;
    for (const auto& event : stream_->trace()) {
      const char* const kinds[] = {"read", "failed read", "copy", "wait storage", "wait device", "hand over"};
      const char* kind = kinds[static_cast<std::size_t>(event.kind)];
      if (event.kind <= TraceEvent::Kind::kCopy) {
        const PlanRead& read = stream_->read(event.index);
        result.append(nb::make_tuple(kind, weightstream::name(event.reader), event.begin, event.end, read.source,
                                     read.range.begin, read.range.end));
      } else if (event.kind == TraceEvent::Kind::kHandOver) {
        const std::uint64_t bytes = stream_->items()[event.index].range.size();
        result.append(nb::make_tuple(kind, describe(event.index, bytes).name, event.begin, event.end, -1, 0, bytes));
      } else {
        result.append(nb::make_tuple(kind, "", event.begin, event.end, -1, 0, 0));
      }
    }
    return result;
  }

  nb::list reasons() const {
    nb::list result;
    for (const auto& [source, reason] : stream_->reasons()) result.append(nb::make_tuple(source, reason));
    return result;
  }

  std::optional<std::pair<std::string, std::string>> not_pinned() const { return stream_->not_pinned(); }

  nb::list drain_log() { return to_list(stream_->drain_log()); }

  std::size_t size() const { return wanted_.size(); }

 private:
  struct Described {
    nb::str name;
    Dtype dtype;
    std::vector<std::int64_t> shape;
  };

  // Whether there was something, or the end.
  bool next_within(std::vector<ReadyItem>& batch, Stream::Clock::duration patience) {
    const auto got = [&] {
      const nb::gil_scoped_release release;
      return stream_->next(batch, patience);
    }();
    if (!got.ok()) throw CoreError{got.error()};
    return got.value() != Stream::Next::kNotYet;
  }

  static nb::tuple to_tuple(const std::vector<std::int64_t>& dims) {
    nb::list list;
    for (const auto dim : dims) list.append(dim);
    return nb::tuple(list);
  }

  Described describe(std::uint32_t item, std::uint64_t bytes) const {
    const Wanted& wanted = wanted_[item];
    const TensorRef ref = checkpoint_->tensors()[wanted.tensor];
    const Header& header = checkpoint_->header(ref);
    const std::string_view name = header.name(ref.entry);
    const Dtype dtype = header.dtype(ref.entry);
    std::vector<std::int64_t> shape;
    if (wanted.whole) {
      const auto dims = header.shape(ref.entry);
      shape.assign(dims.begin(), dims.end());
    } else {
      shape = wanted.shape;
    }
    check_representable(name, shape);
    return {nb::str(name.data(), name.size()), dtype, packed_shape(std::move(shape), dtype, bytes)};
  }

  static std::size_t alignment(Dtype dtype) { return std::max<std::size_t>(info(dtype).bits / 8, 1); }

  std::shared_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Stream> stream_;
  std::vector<Wanted> wanted_;
  std::optional<DeviceMemory> memory_;
  std::uint64_t taken_ = 0;  // items of some bytes, on a device
};

// Bytes [begin, end) of a tensor, by its index, and the shape that they have.
using Part = std::tuple<std::uint32_t, std::uint64_t, std::uint64_t, std::vector<std::int64_t>>;

struct Selection {
  std::vector<Wanted> wanted;
  std::vector<PlanItem> items;

  void add(const Checkpoint& checkpoint, std::uint32_t index) {
    wanted.push_back({index, {}, true});
    items.push_back(whole(checkpoint, index));
  }

  void add(const Checkpoint& checkpoint, Part part) {
    auto& [index, begin, end, shape] = part;
    PlanItem item = whole(checkpoint, index);
    if (begin > end || end > item.range.size()) throw nb::value_error("the part lies outside of the tensor");
    item.range = {item.range.begin + begin, item.range.begin + end};
    wanted.push_back({index, std::move(shape), false});
    items.push_back(item);
  }

 private:
  static PlanItem whole(const Checkpoint& checkpoint, std::uint32_t index) {
    const TensorRef ref = checkpoint.tensors().at(index);
    const Header& header = checkpoint.header(ref);
    return {ref.source, header.range(ref.entry), std::max(info(header.dtype(ref.entry)).bits / 8U, 1U)};
  }
};

std::unique_ptr<PyStream> start(std::shared_ptr<Checkpoint> checkpoint, Selection selection, bool file_order,
                                std::uint64_t memory_limit, std::uint32_t concurrency, const std::string& backend,
                                double called, const std::optional<PyDevice>& device, bool trace, bool parts) {
  StreamOptions options{.file_order = file_order, .memory_limit = memory_limit, .concurrency = concurrency};
  options.trace = trace;
  options.parts = parts;
  options.backend = backend == "uring"   ? Backend::kUring
                    : backend == "pread" ? Backend::kPread
                    : backend == "mmap"  ? Backend::kMmap
                    : backend == "gds"   ? Backend::kGds
                                         : Backend::kAuto;
  // Python's time.monotonic() and steady_clock are the same clock here.
  const Stream::Clock::time_point since{
      std::chrono::duration_cast<Stream::Clock::duration>(std::chrono::duration<double>(called))};
  auto stream = [&] {
    const nb::gil_scoped_release release;
    if (device) options.device = device->target();
    return value_or_throw(Stream::start(checkpoint->sources(), std::move(selection.items), options, since));
  }();
  return std::make_unique<PyStream>(std::move(checkpoint), std::move(stream), std::move(selection.wanted), device);
}

std::unique_ptr<PyStream> start_tensors(std::shared_ptr<Checkpoint> checkpoint,
                                        std::optional<std::vector<std::uint32_t>> indexes, bool file_order,
                                        std::uint64_t memory_limit, std::uint32_t concurrency,
                                        const std::string& backend, double called,
                                        const std::optional<PyDevice>& device, bool trace) {
  Selection selection;
  if (indexes) {
    std::sort(indexes->begin(), indexes->end());  // checkpoint order is file order
    for (const auto index : *indexes) selection.add(*checkpoint, index);
  } else {
    const auto count = static_cast<std::uint32_t>(checkpoint->tensors().size());
    selection.wanted.reserve(count);
    selection.items.reserve(count);
    for (std::uint32_t index = 0; index < count; ++index) selection.add(*checkpoint, index);
  }
  return start(std::move(checkpoint), std::move(selection), file_order, memory_limit, concurrency, backend, called,
               device, trace, false);
}

std::unique_ptr<PyStream> start_parts(std::shared_ptr<Checkpoint> checkpoint, std::vector<Part> parts, bool file_order,
                                      std::uint64_t memory_limit, std::uint32_t concurrency, const std::string& backend,
                                      double called, const std::optional<PyDevice>& device) {
  std::sort(parts.begin(), parts.end());
  Selection selection;
  for (auto& part : parts) {
    const bool again = !selection.wanted.empty() && selection.wanted.back().tensor == std::get<0>(part);
    selection.add(*checkpoint, std::move(part));
    const auto& items = selection.items;
    if (again && items.back().range.begin < items[items.size() - 2].range.end) throw nb::value_error("parts overlap");
  }
  return start(std::move(checkpoint), std::move(selection), file_order, memory_limit, concurrency, backend, called,
               device, false, true);
}

}  // namespace

void bind_stream(nb::module_& module) {
  nb::class_<PyDevice>(module, "Device")
      .def(
          "__init__",
          [](PyDevice* self, const std::string& vendor, int ordinal, std::uint64_t limit, bool packed,
             std::pair<std::int32_t, std::int32_t> dlpack) {
            new (self) PyDevice{
                vendor == "hip" ? Vendor::kHip : Vendor::kCuda, ordinal, limit, packed, {dlpack.first, dlpack.second}};
          },
          nb::kw_only(), nb::arg("vendor"), nb::arg("ordinal"), nb::arg("limit"), nb::arg("packed"), nb::arg("dlpack"));
  PythonOwner::watch_forks();
  module.def("interpreter_ends", &PythonOwner::interpreter_ends);
  module.def("release_pinned_memory", [] {
    if (!device_was_used()) return;
    const nb::gil_scoped_release release;
    SlotPool::of_process()->release_idle();
  });
  module.def("pinned_bytes",
             [] { return device_was_used() ? SlotPool::of_process()->stats().pinned_bytes : std::uint64_t{0}; });
  module.def("default_memory_limit", [] { return default_memory_limit({}); });
  nb::class_<PyStream>(module, "Stream")
      .def_static("start", &start_tensors, nb::arg("checkpoint"), nb::arg("tensors").none(), nb::kw_only(),
                  nb::arg("file_order"), nb::arg("memory_limit"), nb::arg("concurrency"), nb::arg("backend"),
                  nb::arg("called"), nb::arg("device").none() = nb::none(), nb::arg("trace") = false)
      .def_static("start_parts", &start_parts, nb::arg("checkpoint"), nb::arg("parts"), nb::kw_only(),
                  nb::arg("file_order"), nb::arg("memory_limit"), nb::arg("concurrency"), nb::arg("backend"),
                  nb::arg("called"), nb::arg("device").none() = nb::none())
      .def("__len__", &PyStream::size)
      .def("next_dlpack", &PyStream::next_dlpack, nb::arg("wait") = true)
      .def("next_buffers", &PyStream::next_buffers)
      .def("on_device", &PyStream::on_device)
      .def("due", &PyStream::due)
      .def("provide", &PyStream::provide)
      .def("outstanding", &PyStream::outstanding)
      .def("next_device", &PyStream::next_device, nb::arg("wait"))
      .def("close", &PyStream::close)
      .def("stats", &PyStream::stats)
      .def("reasons", &PyStream::reasons)
      .def("not_pinned", &PyStream::not_pinned)
      .def("trace", &PyStream::trace)
      .def("drain_log", &PyStream::drain_log);
}

}  // namespace weightstream::bindings
