#include "bindings/errors.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <exception>
#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.h"

namespace nb = nanobind;

namespace weightstream::bindings {
namespace {

// The names of the classes in weightstream/_errors.py.
const char* class_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kFormat:
      return "FormatError";
    case ErrorCode::kTruncated:
      return "TruncatedError";
    case ErrorCode::kSourceChanged:
      return "SourceChangedError";
    case ErrorCode::kNotFound:
      return "NotFoundError";
    case ErrorCode::kAuth:
      return "AuthError";
    case ErrorCode::kStorage:
      return "StorageError";
    case ErrorCode::kThrottled:
      return "ThrottledError";
    case ErrorCode::kServer:
      return "ServerError";
    case ErrorCode::kProtocol:
      return "ProtocolError";
    case ErrorCode::kTimeout:
      return "TimeoutError";
    case ErrorCode::kDevice:
      return "DeviceError";
    case ErrorCode::kClosed:
      return "ClosedError";
    case ErrorCode::kConfig:
      return "ConfigError";
  }
  return "WeightstreamError";
}

// Paths and tensor names may hold bytes that are not UTF-8; they come out as Python's own path functions give them.
nb::object to_str(const std::string& text) {
  return nb::steal(PyUnicode_DecodeFSDefaultAndSize(text.data(), static_cast<Py_ssize_t>(text.size())));
}

nb::object text_or_none(const std::string& text) { return text.empty() ? nb::object(nb::none()) : to_str(text); }

nb::object positive_or_none(std::uint64_t number) {
  return number == 0 ? nb::object(nb::none()) : nb::object(nb::int_(number));
}

nb::object number_or_none(const std::optional<std::uint64_t>& number) {
  return number ? nb::object(nb::int_(*number)) : nb::none();
}

void raise(const Error& error) {
  const nb::object errors = nb::module_::import_("weightstream._errors");
  nb::object range = nb::none();
  if (error.range) range = nb::make_tuple(error.range->begin, error.range->end);
  const nb::object instance = errors.attr(class_name(error.code))(
      to_str(error.message), nb::arg("source") = text_or_none(error.source), nb::arg("range") = range,
      nb::arg("expected") = number_or_none(error.expected), nb::arg("got") = number_or_none(error.got),
      nb::arg("errno") = positive_or_none(static_cast<std::uint64_t>(error.system_errno)),
      nb::arg("status") = positive_or_none(static_cast<std::uint64_t>(error.http_status)),
      nb::arg("service_code") = text_or_none(error.service_code),
      nb::arg("request_id") = text_or_none(error.request_id), nb::arg("attempts") = positive_or_none(error.attempts));
  PyErr_SetObject(instance.type().ptr(), instance.ptr());
}

}  // namespace

void bind_errors(nb::module_& /*module*/) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void* /*payload*/) {
    try {
      std::rethrow_exception(pointer);
    } catch (const CoreError& core) {
      raise(core.error);
    }
  });
}

}  // namespace weightstream::bindings
