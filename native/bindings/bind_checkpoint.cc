#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "bindings/interruptible.h"
#include "bindings/source_specs.h"
#include "engine/checkpoint.h"
#include "storage/local_file.h"
#include "storage/local_probe.h"
#include "storage/reading_mark.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

nb::str to_str(std::string_view text) { return nb::str(text.data(), text.size()); }

std::shared_ptr<Checkpoint> open(const nb::list& sources, const std::optional<Checkpoint::WeightMap>& weight_map,
                                 std::shared_ptr<LogSink> log) {
  if (!log) log = std::make_shared<LogSink>();  // for nobody
  auto opened = run_interruptibly<std::shared_ptr<const Checkpoint>>(
      [specs = to_specs(sources), weight_map, log = std::move(log)](const std::atomic<bool>& cancelled) {
        return Checkpoint::open(specs, weight_map, *log, cancelled);
      });
  return std::const_pointer_cast<Checkpoint>(std::move(opened));
}

TensorRef at(const Checkpoint& checkpoint, std::size_t index) {
  if (index >= checkpoint.tensors().size()) throw nb::index_error("tensor index out of range");
  return checkpoint.tensors()[index];
}

std::size_t in_range(const Checkpoint& checkpoint, std::size_t source) {
  if (source >= checkpoint.sources()->size()) throw nb::index_error("source index out of range");
  return source;
}

nb::list names(const Checkpoint& checkpoint) {
  nb::list result;
  for (const auto ref : checkpoint.tensors()) result.append(to_str(checkpoint.name(ref)));
  return result;
}

nb::list sizes(const Checkpoint& checkpoint) {
  nb::list result;
  for (const auto ref : checkpoint.tensors()) result.append(checkpoint.header(ref).range(ref.entry).size());
  return result;
}

nb::tuple tensor(const Checkpoint& checkpoint, std::size_t index) {
  const TensorRef ref = at(checkpoint, index);
  const Header& header = checkpoint.header(ref);
  nb::list shape;
  for (const auto dim : header.shape(ref.entry)) shape.append(dim);
  const ByteRange range = header.range(ref.entry);
  return nb::make_tuple(to_str(header.name(ref.entry)), to_str(info(header.dtype(ref.entry)).name), nb::tuple(shape),
                        ref.source, range.begin, range.end);
}

nb::object metadata(const Checkpoint& checkpoint, std::size_t source) {
  const Header& header = checkpoint.header_of(in_range(checkpoint, source));
  if (!header.has_metadata()) return nb::none();
  nb::dict result;
  for (const auto& [key, value] : header.metadata()) result[to_str(key)] = to_str(value);
  return result;
}

nb::tuple source(const Checkpoint& checkpoint, std::size_t index) {
  const Header& header = checkpoint.header_of(in_range(checkpoint, index));
  return nb::make_tuple(checkpoint.sources()->at(index).size(), header.size(), header.data_begin());
}

// The file of a source, if it is a local one.
const LocalFile* local(const Checkpoint& checkpoint, std::size_t index) {
  return checkpoint.sources()->local(in_range(checkpoint, index));
}

std::optional<int> duplicate(const Checkpoint& checkpoint, std::size_t index) {
  const LocalFile* file = local(checkpoint, index);
  if (file == nullptr) return std::nullopt;
  const nb::gil_scoped_release release;
  return value_or_throw(file->duplicate()).release();
}

double cached(const Checkpoint& checkpoint, std::size_t index) {
  const LocalFile* file = local(checkpoint, index);
  if (file == nullptr) return 0;
  const nb::gil_scoped_release release;
  const auto handle = value_or_throw(file->handle());
  return std::max(0.0, cached_fraction(handle->buffered.get(), file->size()));
}

// A mark on a file that is read in other ways than by a stream.
struct Reading {
  ReadingMark mark;
  bool shared = false;
};

std::unique_ptr<Reading> read(const Checkpoint& checkpoint, std::size_t index) {
  const LocalFile* file = local(checkpoint, index);
  if (file == nullptr) return std::make_unique<Reading>();
  const nb::gil_scoped_release release;
  auto handle = value_or_throw(file->handle());
  if (!has_device(handle->buffered.get())) return std::make_unique<Reading>();
  // Marked first, so that of two that begin at the same time at least one sees the other.
  auto reading = std::make_unique<Reading>(ReadingMark(handle));
  reading->shared = others_read(*handle);
  return reading;
}

std::uint64_t total_bytes(const Checkpoint& checkpoint) {
  std::uint64_t bytes = 0;
  for (const auto ref : checkpoint.tensors()) bytes += checkpoint.header(ref).range(ref.entry).size();
  return bytes;
}

}  // namespace

void bind_checkpoint(nb::module_& module) {
  nb::class_<Reading>(module, "Reading").def_ro("shared", &Reading::shared);
  nb::class_<Checkpoint>(module, "Checkpoint")
      .def_static("open", &open, nb::arg("sources"), nb::arg("weight_map").none(), nb::arg("log") = nb::none())
      .def("__len__", [](const Checkpoint& self) { return self.tensors().size(); })
      .def("names", &names)
      .def("sizes", &sizes)
      .def(
          "find", [](const Checkpoint& self, const std::string& name) { return self.find(name); }, nb::arg("name"))
      .def("tensor", &tensor, nb::arg("index"))
      .def("source", &source, nb::arg("index"))
      .def("metadata", &metadata, nb::arg("source"))
      .def("duplicate", &duplicate, nb::arg("source"))
      .def("cached", &cached, nb::arg("source"))
      .def("read", &read, nb::arg("source"))
      .def("nbytes", &total_bytes)
      .def("park", &Checkpoint::park);
}

}  // namespace weightstream::bindings
