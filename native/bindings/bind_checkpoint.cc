#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "engine/checkpoint.h"
#include "storage/core_thread.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

nb::str to_str(std::string_view text) { return nb::str(text.data(), text.size()); }

// Opening on a thread of its own, so that the caller stays interruptible while a file server does not answer.
struct Opening {
  std::mutex mutex;
  std::condition_variable done;
  std::optional<Result<std::shared_ptr<const Checkpoint>>> result;

  void run(const std::vector<std::string>& paths, const std::optional<Checkpoint::WeightMap>& weight_map) {
    auto opened = [&]() -> Result<std::shared_ptr<const Checkpoint>> {
      try {
        return Checkpoint::open(paths, weight_map);
      } catch (const std::bad_alloc&) {
        return Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM};
      }
    }();
    const std::lock_guard lock(mutex);
    result.emplace(std::move(opened));
    done.notify_one();
  }

  // True when it is done; returns after a while in any case.
  bool wait() {
    const nb::gil_scoped_release release;
    std::unique_lock lock(mutex);
    return done.wait_for(lock, std::chrono::milliseconds(50), [this] { return result.has_value(); });
  }
};

std::shared_ptr<Checkpoint> open(const nb::list& paths, const std::optional<Checkpoint::WeightMap>& weight_map) {
  std::vector<std::string> native;
  native.reserve(paths.size());
  for (const nb::handle path : paths) {
    const auto bytes = nb::cast<nb::bytes>(path);
    native.emplace_back(bytes.c_str(), bytes.size());
  }
  auto opening = std::make_shared<Opening>();
  std::thread thread;
  value_or_throw(start_core_thread(
      thread, "ws-open", [opening, native = std::move(native), weight_map] { opening->run(native, weight_map); }));
  while (!opening->wait()) {
    if (PyErr_CheckSignals() == 0) continue;
    thread.detach();  // a file server may keep it for long; what it works on is its own
    throw nb::python_error();
  }
  thread.join();
  return std::const_pointer_cast<Checkpoint>(value_or_throw(std::move(*opening->result)));
}

TensorRef at(const Checkpoint& checkpoint, std::size_t index) {
  if (index >= checkpoint.tensors().size()) throw nb::index_error("tensor index out of range");
  return checkpoint.tensors()[index];
}

nb::list names(const Checkpoint& checkpoint) {
  nb::list result;
  for (const auto ref : checkpoint.tensors()) result.append(to_str(checkpoint.name(ref)));
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
  const Header& header = checkpoint.shards().at(source).header;
  if (!header.has_metadata()) return nb::none();
  nb::dict result;
  for (const auto& [key, value] : header.metadata()) result[to_str(key)] = to_str(value);
  return result;
}

nb::tuple source(const Checkpoint& checkpoint, std::size_t index) {
  const auto& shard = checkpoint.shards().at(index);
  return nb::make_tuple(shard.file->size(), shard.header.size(), shard.header.data_begin());
}

std::uint64_t total_bytes(const Checkpoint& checkpoint) {
  std::uint64_t bytes = 0;
  for (const auto ref : checkpoint.tensors()) bytes += checkpoint.header(ref).range(ref.entry).size();
  return bytes;
}

}  // namespace

void bind_checkpoint(nb::module_& module) {
  nb::class_<Checkpoint>(module, "Checkpoint")
      .def_static("open", &open, nb::arg("paths"), nb::arg("weight_map").none())
      .def("__len__", [](const Checkpoint& self) { return self.tensors().size(); })
      .def("names", &names)
      .def(
          "find", [](const Checkpoint& self, const std::string& name) { return self.find(name); }, nb::arg("name"))
      .def("tensor", &tensor, nb::arg("index"))
      .def("source", &source, nb::arg("index"))
      .def("metadata", &metadata, nb::arg("source"))
      .def("nbytes", &total_bytes)
      .def("park", &Checkpoint::park);
}

}  // namespace weightstream::bindings
