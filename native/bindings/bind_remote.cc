#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "bindings/host_tensor.h"
#include "bindings/interruptible.h"
#include "bindings/log_lines.h"
#include "bindings/source_specs.h"
#include "engine/open_sources.h"
#include "engine/stream.h"
#include "storage/http_object.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

using Headers = std::vector<std::pair<std::string, std::string>>;

// How long a call may keep signals waiting.
constexpr auto kSignalCheck = std::chrono::milliseconds(50);

// What the process remembers of the hosts it read from. It goes with the process: loads are short, processes long.
HttpHosts& hosts() {
  static HttpHosts known;
  return known;
}

HttpAccess to_access(std::string url, const Headers& headers, std::optional<double> expires_at,
                     std::optional<std::string> redirected_by) {
  HttpAccess access{.url = std::move(url),
                    .headers = {},
                    .expires_at = expires_at,
                    .redirected_by = std::move(redirected_by).value_or("")};
  for (const auto& [name, value] : headers) access.headers.push_back(name + ": " + value);
  return access;
}

HttpOptions to_options(const nb::dict& given) {
  HttpOptions options;
  HttpPolicy& policy = options.policy;
  for (const auto [key, value] : given) {
    const auto name = nb::cast<std::string>(key);
    const auto number = [&](auto& field) { field = nb::cast<std::remove_reference_t<decltype(field)>>(value); };
    if (name == "ca_bundle") {
      options.ca_bundle = value.is_none() ? std::string() : nb::cast<std::string>(value);
    } else if (name == "ca_origin") {
      options.ca_origin = nb::cast<std::string>(value);
    } else if (name == "user_agent") {
      options.user_agent = nb::cast<std::string>(value);
    } else if (name == "verify") {
      number(options.verify);
    } else if (name == "allow_plain_http") {
      number(options.allow_plain_http);
    } else if (name == "max_attempts") {
      number(policy.max_attempts);
    } else if (name == "connect_attempts") {
      number(policy.connect_attempts);
    } else if (name == "max_redirects") {
      number(policy.max_redirects);
    } else if (name == "connect_timeout") {
      number(policy.connect_timeout);
    } else if (name == "backoff") {
      number(policy.backoff);
    } else if (name == "backoff_cap") {
      number(policy.backoff_cap);
    } else if (name == "stall_seconds") {
      number(policy.stall_seconds);
    } else if (name == "stall_bytes") {
      number(policy.stall_bytes);
    } else if (name == "first_byte_seconds") {
      number(policy.first_byte_seconds);
    } else if (name == "first_answer_seconds") {
      number(policy.first_answer_seconds);
    } else if (name == "deadline") {
      number(policy.deadline);
    } else if (name == "hedge_seconds") {
      number(policy.hedge_seconds);
    } else {
      throw nb::key_error(name.c_str());
    }
  }
  return options;
}

std::shared_ptr<HttpObject> make_object(std::string name, std::string url, const Headers& headers,
                                        std::optional<std::uint64_t> size, std::optional<std::string> etag,
                                        std::optional<double> expires_at, std::optional<std::string> redirected_by,
                                        std::shared_ptr<Renewals> renewals, const nb::dict& options) {
  return value_or_throw(HttpObject::make(std::move(name),
                                         to_access(std::move(url), headers, expires_at, std::move(redirected_by)), size,
                                         etag.value_or(""), to_options(options), std::move(renewals), hosts()));
}

// The object that asks, or nothing after `seconds`.
std::shared_ptr<HttpObject> next_renewal(Renewals& renewals, double seconds) {
  const nb::gil_scoped_release release;
  return std::const_pointer_cast<HttpObject>(
      renewals.next(std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::duration<double>(seconds))));
}

// Ranges of sources as they are, without headers and tensors.
class RawStream {
 public:
  RawStream(std::unique_ptr<Stream> stream, std::vector<std::size_t> order)
      : stream_(std::move(stream)), order_(std::move(order)) {}
  ~RawStream() { close(); }

  static std::unique_ptr<RawStream> start(
      const OpenedSources& opened, const std::vector<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>>& ranges,
      std::uint64_t memory_limit, std::uint32_t concurrency, double called) {
    std::vector<std::size_t> order(ranges.size());
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::sort(order.begin(), order.end(), [&](auto a, auto b) { return ranges[a] < ranges[b]; });
    std::vector<PlanItem> items;
    for (const auto i : order) {
      const auto& [source, begin, end] = ranges[i];
      const bool inside = source < opened.sources->size() && begin <= end && end <= opened.sources->at(source).size();
      const bool apart = items.empty() || items.back().source != source || items.back().range.end <= begin;
      if (!inside || !apart) throw nb::value_error("a range lies outside of its source, or overlaps another");
      items.push_back({source, {begin, end}});
    }
    const Stream::Clock::time_point since{
        std::chrono::duration_cast<Stream::Clock::duration>(std::chrono::duration<double>(called))};
    auto stream = [&] {
      const nb::gil_scoped_release release;
      return value_or_throw(Stream::start(opened.sources, std::move(items),
                                          {.memory_limit = memory_limit, .concurrency = concurrency}, since));
    }();
    return std::make_unique<RawStream>(std::move(stream), std::move(order));
  }

  nb::list next() {
    std::vector<ReadyItem> batch;
    while (true) {
      const auto got = [&] {
        const nb::gil_scoped_release release;
        return stream_->next(batch, kSignalCheck);
      }();
      if (!got.ok()) throw CoreError{got.error()};
      if (got.value() != Stream::Next::kNotYet) break;
      if (PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    nb::list result;
    for (auto& item : batch) {
      result.append(nb::make_tuple(order_[item.index], nb::cast(HostTensor(std::move(item.lease), 1))));
    }
    return result;
  }

  void close() {
    const nb::gil_scoped_release release;
    stream_->close();
  }

  std::uint64_t bytes_read() const { return stream_->stats().bytes_read; }
  std::uint64_t retries() const { return stream_->stats().retries; }

  nb::list reasons() const {
    nb::list result;
    for (const auto& [source, reason] : stream_->reasons()) result.append(nb::make_tuple(source, reason));
    return result;
  }

  nb::list drain_log() { return to_list(stream_->drain_log()); }

 private:
  std::unique_ptr<Stream> stream_;
  std::vector<std::size_t> order_;  // of the ranges as given, by their place in the plan
};

std::shared_ptr<OpenedSources> open(const nb::list& sources, std::shared_ptr<LogSink> log) {
  if (!log) log = std::make_shared<LogSink>();  // for nobody
  return std::make_shared<OpenedSources>(run_interruptibly<OpenedSources>(
      [specs = to_specs(sources), log = std::move(log)](const std::atomic<bool>& cancelled) {
        return open_sources(specs, *log, cancelled);
      }));
}

const Source& source_at(const OpenedSources& opened, std::size_t index) {
  if (index >= opened.sources->size()) throw nb::index_error("source index out of range");
  return opened.sources->at(index);
}

}  // namespace

std::vector<SourceSpec> to_specs(const nb::list& sources) {
  std::vector<SourceSpec> specs;
  specs.reserve(sources.size());
  for (const nb::handle source : sources) {
    if (nb::isinstance<nb::bytes>(source)) {
      const auto path = nb::cast<nb::bytes>(source);
      specs.emplace_back(std::string(path.c_str(), path.size()));
    } else {
      specs.emplace_back(nb::cast<std::shared_ptr<HttpObject>>(source));
    }
  }
  return specs;
}

void bind_remote(nb::module_& module) {
  // Made by C++, and with shared_from_this: what the core holds of them is let go of without Python.
  nb::class_<LogSink>(module, "Log").def(nb::new_(&std::make_shared<LogSink>)).def("drain", [](LogSink& self) {
    return to_list(self.drain());
  });
  nb::class_<Renewals>(module, "Renewals")
      .def(nb::new_(&std::make_shared<Renewals>))
      .def("next", &next_renewal, nb::arg("seconds"));
  nb::class_<HttpObject>(module, "HttpObject")
      .def_static("make", &make_object, nb::kw_only(), nb::arg("name"), nb::arg("url"), nb::arg("headers"),
                  nb::arg("size").none(), nb::arg("etag").none(), nb::arg("expires_at").none(),
                  nb::arg("redirected_by").none(), nb::arg("renewals").none(), nb::arg("options"))
      .def_prop_ro("name", &HttpObject::name)
      .def_prop_ro("version", &HttpObject::version)
      .def(
          "renew",
          [](const HttpObject& self, std::string url, const Headers& headers, std::optional<double> expires_at,
             std::optional<std::string> redirected_by) {
            self.renew(to_access(std::move(url), headers, expires_at, std::move(redirected_by)));
          },
          nb::arg("url"), nb::arg("headers"), nb::arg("expires_at").none(), nb::arg("redirected_by").none())
      .def("renewal_failed", &HttpObject::renewal_failed, nb::arg("message"));
  nb::class_<OpenedSources>(module, "Sources")
      .def_static("open", &open, nb::arg("sources"), nb::arg("log") = nb::none())
      .def("__len__", [](const OpenedSources& self) { return self.sources->size(); })
      .def(
          "size", [](const OpenedSources& self, std::size_t index) { return source_at(self, index).size(); },
          nb::arg("index"))
      .def(
          "head",
          [](const OpenedSources& self, std::size_t index) {
            source_at(self, index);
            const auto& head = self.heads[index];
            return nb::bytes(head.data(), head.size());
          },
          nb::arg("index"))
      .def("park", [](const OpenedSources& self) { self.sources->park(); });
  nb::class_<RawStream>(module, "RawStream")
      .def_static("start", &RawStream::start, nb::arg("sources"), nb::arg("ranges"), nb::kw_only(),
                  nb::arg("memory_limit"), nb::arg("concurrency"), nb::arg("called"))
      .def("next", &RawStream::next)
      .def("close", &RawStream::close)
      .def("bytes_read", &RawStream::bytes_read)
      .def("retries", &RawStream::retries)
      .def("reasons", &RawStream::reasons)
      .def("drain_log", &RawStream::drain_log);
}

}  // namespace weightstream::bindings
