#include "storage/http_framing.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace weightstream {
namespace {

// Of one line, and of all the lines between two chunks or after the last.
constexpr std::size_t kMostLineBytes = 64 << 10;
constexpr std::size_t kMostFramingBytes = 64 << 10;
constexpr std::string_view kTooLong = "the server sent more than 64 KiB of response headers";

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_chunked(std::string_view coding) {
  constexpr std::string_view kChunked = "chunked";
  return coding.size() == kChunked.size() &&
         std::equal(kChunked.begin(), kChunked.end(), coding.begin(), [](char a, char b) { return a == (b | 0x20); });
}

}  // namespace

std::size_t HttpFraming::frame(std::string_view bytes) {
  std::size_t taken = 0;
  while (taken < bytes.size() && run_ == 0 && (part_ == Part::kHead || part_ == Part::kBody)) {
    const auto rest = bytes.substr(taken);
    const auto end = rest.find('\n');
    const auto part = rest.substr(0, end);
    taken += part.size();
    if (line_.size() + part.size() > kMostLineBytes) {
      broken(std::string(kTooLong));
      break;
    }
    line_ += part;
    if (next_ == Line::kStatus && !std::string_view("HTTP/1.").starts_with(line_.substr(0, 7))) {
      broken("the answer does not begin as one");  // said before a line's end that may never come
      break;
    }
    if (end == std::string_view::npos) break;
    ++taken;
    const std::string line = std::exchange(line_, {});
    const std::string_view text(line);
    take_line(text.ends_with('\r') ? text.substr(0, text.size() - 1) : text);
  }
  return taken;
}

void HttpFraming::take_line(std::string_view line) {
  // A line's end within a line would end it for others; other control characters are for who shows them to replace.
  if (line.find('\0') != std::string_view::npos || line.find('\r') != std::string_view::npos) {
    return broken("a control character in the head of the answer");
  }
  switch (next_) {
    case Line::kStatus:
      return take_status(line);
    case Line::kHeader:
      return take_header(line);
    case Line::kChunkSize:
      return take_chunk_size(line);
    case Line::kChunkEnd:
      next_ = Line::kChunkSize;
      return line.empty() ? void() : broken("a chunk of the answer is longer than its size");
    case Line::kTrailer:
      framing_ += line.size() + 1;
      if (framing_ > kMostFramingBytes) return broken(std::string(kTooLong));
      return line.empty() ? end() : void();
  }
}

// "HTTP/1.1 206 Partial Content".
void HttpFraming::take_status(std::string_view line) {
  constexpr std::size_t kCode = std::string_view("HTTP/1.1 ").size();
  const bool right = line.size() >= kCode + 3 && is_digit(line[kCode - 2]) && line[kCode - 1] == ' ' &&
                     std::all_of(line.begin() + kCode, line.begin() + kCode + 3, is_digit) &&
                     (line.size() == kCode + 3 || line[kCode + 3] == ' ') && line[kCode] != '0';
  if (!right) return broken("the answer's first line is no status line");
  if (!head_.add(line)) return broken(std::string(kTooLong));
  next_ = Line::kHeader;
}

void HttpFraming::take_header(std::string_view line) {
  if (line.empty()) return begin_body();
  // A line that goes on with the one before (obsolete, RFC 9112, section 5.2) would hide from whoever reads lines.
  if (line.front() == ' ' || line.front() == '\t' || line.front() == ':' || line.find(':') == std::string_view::npos ||
      line.starts_with("HTTP/")) {
    return broken("a line of the answer's head is no header");
  }
  if (!head_.add(line)) broken(std::string(kTooLong));
}

// After the empty line: RFC 9112, section 6.3.
void HttpFraming::begin_body() {
  if (head_.status == 101) return broken("the server changed the protocol, which nobody asked for");
  if (head_.status < 200) {
    next_ = Line::kStatus;  // an interim answer
    return;
  }
  part_ = Part::kBody;
  if (head_.status == 204 || head_.status == 304) return end();
  if (!head_.transfer_encoding.empty()) {
    if (!is_chunked(head_.transfer_encoding)) return broken("the answer has a Transfer-Encoding that nobody asked for");
    chunked_ = true;
    head_.content_length.reset();  // of no meaning beside it
    next_ = Line::kChunkSize;
    return;
  }
  if (head_.unclear_length) return broken("the answer's Content-Length is unclear");
  if (head_.content_length) {
    run_ = *head_.content_length;
    return run_ == 0 ? end() : void();
  }
  until_end_ = true;
  run_ = UINT64_MAX;
}

// "1a2b;extension".
void HttpFraming::take_chunk_size(std::string_view line) {
  framing_ += line.size() + 1;
  if (framing_ > kMostFramingBytes) return broken(std::string(kTooLong));
  const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), run_, 16);
  const std::string_view rest(end, static_cast<std::size_t>(line.data() + line.size() - end));
  if (error != std::errc() || !(rest.empty() || rest.front() == ';' || rest.front() == ' ' || rest.front() == '\t')) {
    run_ = 0;
    return broken("the size of a chunk of the answer cannot be read");
  }
  next_ = run_ == 0 ? Line::kTrailer : Line::kChunkEnd;
}

void HttpFraming::took(std::uint64_t bytes) {
  framing_ = 0;
  if (until_end_) return;
  run_ -= bytes;
  if (run_ == 0 && !chunked_) end();
}

void HttpFraming::connection_ended() {
  if (part_ == Part::kBody && until_end_) end();
}

void HttpFraming::broken(std::string why) {
  defect_ = std::move(why);
  part_ = Part::kBroken;
}

}  // namespace weightstream
