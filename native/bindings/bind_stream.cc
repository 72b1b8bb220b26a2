#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/dlpack.h"
#include "bindings/errors.h"
#include "bindings/host_tensor.h"
#include "bindings/log_lines.h"
#include "engine/checkpoint.h"
#include "engine/stream.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

// How long next() may keep signals waiting.
constexpr auto kSignalCheck = std::chrono::milliseconds(50);

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

class PyStream {
 public:
  PyStream(std::shared_ptr<Checkpoint> checkpoint, std::unique_ptr<Stream> stream, std::vector<Wanted> wanted)
      : checkpoint_(std::move(checkpoint)), stream_(std::move(stream)), wanted_(std::move(wanted)) {}
  ~PyStream() {
    const nb::gil_scoped_release release;
    stream_->close();
  }

  // Waits for the next batch; empty at the end. Interruptible by signals.
  std::vector<ReadyItem> next() {
    std::vector<ReadyItem> batch;
    while (true) {
      const auto got = [&] {
        const nb::gil_scoped_release release;
        return stream_->next(batch, kSignalCheck);
      }();
      if (!got.ok()) throw CoreError{got.error()};
      if (got.value() != Stream::Next::kNotYet) return batch;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
  }

  nb::list next_dlpack() {
    nb::list result;
    for (auto& item : next()) {
      const Described d = describe(item);
      const DlpackType type = dlpack_type(d.dtype);
      nb::object view = type.needs_view ? nb::object(nb::str(info(d.dtype).name.data())) : nb::none();
      nb::object capsule = to_dlpack(HostTensor(std::move(item.lease), alignment(d.dtype)), type, std::move(d.shape));
      result.append(nb::make_tuple(d.name, std::move(capsule), std::move(view)));
    }
    return result;
  }

  nb::list next_buffers() {
    nb::list result;
    for (auto& item : next()) {
      const Described d = describe(item);
      nb::list shape;
      for (const auto dim : d.shape) shape.append(dim);
      result.append(nb::make_tuple(d.name, nb::cast(HostTensor(std::move(item.lease), alignment(d.dtype))),
                                   nb::tuple(shape), nb::str(info(d.dtype).name.data())));
    }
    return result;
  }

  void close() {
    const nb::gil_scoped_release release;
    stream_->close();
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
    result["wait_consumer_seconds"] = stats.wait_consumer_seconds;
    result["peak_host_bytes"] = stats.peak_host_bytes;
    nb::dict readers;
    for (const auto kind : kReaderKinds) {
      const auto bytes = stats.bytes_by_reader[static_cast<std::size_t>(kind)];
      if (bytes > 0) readers[name(kind)] = bytes;
    }
    result["readers"] = std::move(readers);
    return result;
  }

  nb::list reasons() const {
    nb::list result;
    for (const auto& [source, reason] : stream_->reasons()) result.append(nb::make_tuple(source, reason));
    return result;
  }

  nb::list drain_log() { return to_list(stream_->drain_log()); }

  std::size_t size() const { return wanted_.size(); }

 private:
  struct Described {
    nb::str name;
    Dtype dtype;
    std::vector<std::int64_t> shape;
  };

  Described describe(const ReadyItem& item) const {
    const Wanted& wanted = wanted_[item.index];
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
    const std::uint64_t bytes = item.lease ? item.lease.size() : 0;
    return {nb::str(name.data(), name.size()), dtype, packed_shape(std::move(shape), dtype, bytes)};
  }

  static std::size_t alignment(Dtype dtype) { return std::max<std::size_t>(info(dtype).bits / 8, 1); }

  std::shared_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<Stream> stream_;
  std::vector<Wanted> wanted_;
};

struct Selection {
  std::vector<Wanted> wanted;
  std::vector<PlanItem> items;

  void add(const Checkpoint& checkpoint, std::uint32_t index) {
    const TensorRef ref = checkpoint.tensors().at(index);
    wanted.push_back({index, {}, true});
    items.push_back({ref.source, checkpoint.header(ref).range(ref.entry)});
  }
};

std::unique_ptr<PyStream> start(std::shared_ptr<Checkpoint> checkpoint, Selection selection, bool file_order,
                                std::uint64_t memory_limit, std::uint32_t concurrency, const std::string& backend,
                                double called) {
  StreamOptions options{.file_order = file_order, .memory_limit = memory_limit, .concurrency = concurrency};
  options.backend = backend == "uring"   ? Backend::kUring
                    : backend == "pread" ? Backend::kPread
                    : backend == "mmap"  ? Backend::kMmap
                                         : Backend::kAuto;
  // Python's time.monotonic() and steady_clock are the same clock here.
  const Stream::Clock::time_point since{
      std::chrono::duration_cast<Stream::Clock::duration>(std::chrono::duration<double>(called))};
  auto stream = [&] {
    const nb::gil_scoped_release release;
    return value_or_throw(Stream::start(checkpoint->sources(), std::move(selection.items), options, since));
  }();
  return std::make_unique<PyStream>(std::move(checkpoint), std::move(stream), std::move(selection.wanted));
}

std::unique_ptr<PyStream> start_tensors(std::shared_ptr<Checkpoint> checkpoint,
                                        std::optional<std::vector<std::uint32_t>> indexes, bool file_order,
                                        std::uint64_t memory_limit, std::uint32_t concurrency,
                                        const std::string& backend, double called) {
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
  return start(std::move(checkpoint), std::move(selection), file_order, memory_limit, concurrency, backend, called);
}

std::unique_ptr<PyStream> start_part(std::shared_ptr<Checkpoint> checkpoint, std::uint32_t index, std::uint64_t begin,
                                     std::uint64_t end, std::vector<std::int64_t> shape, std::uint64_t memory_limit,
                                     std::uint32_t concurrency, const std::string& backend, double called) {
  const TensorRef ref = checkpoint->tensors().at(index);
  const ByteRange whole = checkpoint->header(ref).range(ref.entry);
  if (begin > end || end > whole.size()) throw nb::value_error("the part lies outside of the tensor");
  Selection selection;
  selection.wanted.push_back({index, std::move(shape), false});
  selection.items.push_back({ref.source, {whole.begin + begin, whole.begin + end}});
  return start(std::move(checkpoint), std::move(selection), false, memory_limit, concurrency, backend, called);
}

}  // namespace

void bind_stream(nb::module_& module) {
  nb::class_<PyStream>(module, "Stream")
      .def_static("start", &start_tensors, nb::arg("checkpoint"), nb::arg("tensors").none(), nb::kw_only(),
                  nb::arg("file_order"), nb::arg("memory_limit"), nb::arg("concurrency"), nb::arg("backend"),
                  nb::arg("called"))
      .def_static("start_part", &start_part, nb::arg("checkpoint"), nb::arg("tensor"), nb::arg("begin"), nb::arg("end"),
                  nb::arg("shape"), nb::kw_only(), nb::arg("memory_limit"), nb::arg("concurrency"), nb::arg("backend"),
                  nb::arg("called"))
      .def("__len__", &PyStream::size)
      .def("next_dlpack", &PyStream::next_dlpack)
      .def("next_buffers", &PyStream::next_buffers)
      .def("close", &PyStream::close)
      .def("stats", &PyStream::stats)
      .def("reasons", &PyStream::reasons)
      .def("drain_log", &PyStream::drain_log);
}

}  // namespace weightstream::bindings
