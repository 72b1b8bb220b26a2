// The one error type of the core. It carries what a person needs to act: what failed, on which source, which byte
// range, what was expected and what came. Bindings translate it to the Python error tree in exactly one place.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

namespace weightstream {

enum class ErrorCode : std::uint8_t {
  kFormat,         // the bytes are not a valid safetensors file or index
  kTruncated,      // the source ended before the range did
  kSourceChanged,  // the source is not the one whose header was read
  kNotFound,
  kAuth,           // permission denied
  kStorage,        // the operating system refused or failed a read; system_errno says why
  kThrottled,      // a server asked to slow down until the attempts were used up
  kServer,         // a server failed or could not be reached until the attempts were used up
  kProtocol,       // a server answered something else than was asked for
  kTimeout,
  kDevice,         // an accelerator or its driver is missing, failed, or is out of memory
  kClosed,         // used after close(), or from a process that did not start it
  kConfig,         // a setting or a location that cannot work
};

// A half-open range of source offsets, in bytes.
struct ByteRange {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  [[nodiscard]] constexpr std::uint64_t size() const { return end - begin; }
  [[nodiscard]] constexpr bool empty() const { return begin == end; }
  friend constexpr bool operator==(const ByteRange&, const ByteRange&) = default;
};

struct Error {
  ErrorCode code = ErrorCode::kStorage;
  std::string message;                    // what failed and what to do about it; does not repeat the source
  std::string source = {};                // path or URL; empty until the layer that knows it fills it in
  std::optional<ByteRange> range = {};    // the part of the source that was asked for
  std::optional<std::uint64_t> expected = {};
  std::optional<std::uint64_t> got = {};
  int system_errno = 0;
  int http_status = 0;             // of the response that decided; 0 where there was none
  std::string service_code = {};   // the storage service's own name for it ("NoSuchKey")
  std::string request_id = {};     // by which the service's operators find the request
  std::uint32_t attempts = 0;      // requests made for this read; 0 where nothing is ever tried again

  // The same error, naming `where` unless a lower layer already named a source.
  [[nodiscard]] Error at(std::string where) && {
    if (source.empty()) source = std::move(where);
    return std::move(*this);
  }
};

}  // namespace weightstream
