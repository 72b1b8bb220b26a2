// One HTTP request and the file, or part of a file, that answers it.
#pragma once

#include <fcntl.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(std::exchange(other.number_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

// What counts of a GET or HEAD request.
struct Request {
  bool head_only = false;
  std::string path;
  std::string range;
  std::string if_match;
};

// A head, then `left` bytes of `file` from `offset` on.
struct Response {
  std::string head;
  std::size_t head_sent = 0;
  Descriptor file;
  off_t offset = 0;
  std::uint64_t left = 0;
  bool close_after = false;
};

inline bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && strncasecmp(a.data(), b.data(), a.size()) == 0;
}

inline std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

// "/bucket/key%20name?query" without escapes and query; nothing for a path that leaves the folder. Clients may put
// "http://host" before it (RFC 9112, 3.2.2), and the S3 client of the AWS CRT does.
inline std::optional<std::string> clean_path(std::string_view target) {
  target = target.substr(0, target.find('?'));
  constexpr std::string_view kScheme = "http://";
  if (target.starts_with(kScheme)) {
    const auto slash = target.find('/', kScheme.size());
    if (slash == std::string_view::npos) return std::nullopt;
    target.remove_prefix(slash);
  }
  std::string path;
  for (std::size_t i = 0; i < target.size(); ++i) {
    unsigned char byte = static_cast<unsigned char>(target[i]);
    if (byte == '%') {
      if (i + 2 >= target.size()) return std::nullopt;
      const char* digits = target.data() + i + 1;
      if (std::from_chars(digits, digits + 2, byte, 16).ptr != digits + 2) return std::nullopt;
      i += 2;
    }
    path.push_back(static_cast<char>(byte));
  }
  if (path.empty() || path[0] != '/' || path.find('\0') != std::string::npos) return std::nullopt;
  if ((path + "/").find("/../") != std::string::npos) return std::nullopt;
  return path;
}

// A request without the blank line at its end; nothing when it is not understood.
inline std::optional<Request> parse(std::string_view head) {
  Request request;
  std::string_view line = head.substr(0, head.find("\r\n"));
  const auto first = line.find(' ');
  const auto second = line.find(' ', first + 1);
  if (first == std::string_view::npos || second == std::string_view::npos) return std::nullopt;
  const auto method = line.substr(0, first);
  if (method != "GET" && method != "HEAD") return std::nullopt;
  request.head_only = method == "HEAD";
  auto path = clean_path(line.substr(first + 1, second - first - 1));
  if (!path) return std::nullopt;
  request.path = std::move(*path);
  for (auto at = head.find("\r\n"); at != std::string_view::npos;) {
    const auto end = head.find("\r\n", at + 2);
    line = head.substr(at + 2, (end == std::string_view::npos ? head.size() : end) - at - 2);
    const auto colon = line.find(':');
    if (colon != std::string_view::npos) {
      const auto name = line.substr(0, colon);
      const auto value = trimmed(line.substr(colon + 1));
      if (equal_ignoring_case(name, "Range")) request.range = value;
      if (equal_ignoring_case(name, "If-Match")) request.if_match = value;
    }
    at = end;
  }
  return request;
}

inline std::string http_date(std::time_t time) {
  std::array<char, 64> text{};
  std::tm parts{};
  gmtime_r(&time, &parts);
  std::strftime(text.data(), text.size(), "%a, %d %b %Y %H:%M:%S GMT", &parts);
  return text.data();
}

inline std::string head_of(const char* status, std::uint64_t length, const std::string& more) {
  return std::string("HTTP/1.1 ") + status + "\r\nServer: paced\r\nDate: " + http_date(std::time(nullptr)) +
         "\r\nContent-Length: " + std::to_string(length) + "\r\nConnection: keep-alive\r\n" + more + "\r\n";
}

inline Response refusal(const char* status, const std::string& more = "") {
  Response response;
  response.head = head_of(status, 0, more);
  return response;
}

// First and last byte that a Range header asks of a file: one range, in any of its three forms.
inline std::optional<std::pair<std::uint64_t, std::uint64_t>> wanted(std::string_view range, std::uint64_t size) {
  constexpr std::string_view kUnit = "bytes=";
  const auto dash = range.find('-');
  if (!range.starts_with(kUnit) || dash == std::string_view::npos || size == 0) return std::nullopt;
  const auto number = [](std::string_view text) -> std::optional<std::uint64_t> {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return value;
  };
  const auto from = number(range.substr(kUnit.size(), dash - kUnit.size()));
  const auto to = number(range.substr(dash + 1));
  if (!from && to && *to > 0) return std::pair{size - std::min(size, *to), size - 1};
  if (!from || *from >= size) return std::nullopt;
  if (!to && dash + 1 != range.size()) return std::nullopt;
  const auto last = std::min(to.value_or(size - 1), size - 1);
  if (last < *from) return std::nullopt;
  return std::pair{*from, last};
}

// Opens the file below `root`.
inline Response answer(const std::string& root, const Request& request) {
  Response response;
  response.file = Descriptor(open((root + request.path).c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (response.file.get() < 0 || fstat(response.file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return refusal("404 Not Found");
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  const std::string etag = "\"" + std::to_string(status.st_mtime) + "-" + std::to_string(size) + "\"";
  if (!request.if_match.empty() && request.if_match != etag && request.if_match != "*") {
    return refusal("412 Precondition Failed");
  }
  std::string more = "Accept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\nETag: " + etag +
                     "\r\nLast-Modified: " + http_date(status.st_mtime) + "\r\n";
  if (request.range.empty()) {
    response.head = head_of("200 OK", size, more);
    response.left = size;
  } else if (const auto range = wanted(request.range, size)) {
    more += "Content-Range: bytes " + std::to_string(range->first) + "-" + std::to_string(range->second) + "/" +
            std::to_string(size) + "\r\n";
    response.offset = static_cast<off_t>(range->first);
    response.left = range->second - range->first + 1;
    response.head = head_of("206 Partial Content", response.left, more);
  } else {
    return refusal("416 Range Not Satisfiable", "Content-Range: bytes */" + std::to_string(size) + "\r\n");
  }
  if (request.head_only) response.left = 0;
  return response;
}
