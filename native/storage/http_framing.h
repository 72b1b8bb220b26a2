// Where a response begins and ends on its connection: its head, then a body by Content-Length, in chunks, or up to the
// end of the connection. RFC 9112, sections 4 to 7.
//
// It counts bytes and keeps none, so that those of the body can be received where they belong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "storage/http_head.h"

namespace weightstream {

class HttpFraming {
 public:
  enum class Part : std::uint8_t { kHead, kBody, kEnd, kBroken };

  [[nodiscard]] Part part() const { return part_; }
  // Whole once part() is no longer kHead.
  [[nodiscard]] const HttpHead& head() const { return head_; }
  // Why it is broken: not HTTP/1.1, or not within its bounds.
  [[nodiscard]] const std::string& defect() const { return defect_; }
  // Whether the status line was understood.
  [[nodiscard]] bool begun() const { return head_.status != 0; }

  // Takes what frames the body (the head, sizes of chunks) from the front of `bytes`, up to the next byte of the body,
  // the end or a defect; returns how many bytes that were.
  std::size_t frame(std::string_view bytes);
  // Bytes of the body that follow at once, with nothing between them. 0: frame() comes first.
  [[nodiscard]] std::uint64_t run() const { return run_; }
  // So many of them came.
  void took(std::uint64_t bytes);
  // The connection ended: also the end of a body that has no other. Otherwise part() stays what it was.
  void connection_ended();
  // Whether another response can follow on this connection.
  [[nodiscard]] bool reusable() const { return part_ == Part::kEnd && head_.keeps_alive && !until_end_; }

 private:
  enum class Line : std::uint8_t { kStatus, kHeader, kChunkSize, kChunkEnd, kTrailer };
  void take_line(std::string_view line);
  void take_status(std::string_view line);
  void take_header(std::string_view line);
  void take_chunk_size(std::string_view line);
  void begin_body();
  void end() { part_ = Part::kEnd; }
  void broken(std::string why);

  Part part_ = Part::kHead;
  Line next_ = Line::kStatus;
  HttpHead head_;
  std::string defect_;
  std::string line_;  // as far as it came
  std::uint64_t framing_ = 0;  // bytes of chunk sizes and trailers since the last byte of the body
  std::uint64_t run_ = 0;
  bool chunked_ = false;
  bool until_end_ = false;
};

}  // namespace weightstream
