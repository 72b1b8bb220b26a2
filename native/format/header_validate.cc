// Every rule of the format, apart from those of JSON itself. docs/reference/format.md lists them in this order.
#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <tuple>

#include "base/checked.h"
#include "format/describe.h"
#include "format/foreign_content.h"
#include "format/header.h"
#include "format/header_builder.h"

namespace weightstream {
namespace {

Error wrong(std::string message) { return {.code = ErrorCode::kFormat, .message = std::move(message)}; }

Error wrong(std::string message, std::uint64_t expected, std::uint64_t got) {
  return {.code = ErrorCode::kFormat, .message = std::move(message), .expected = expected, .got = got};
}

std::string missing(std::uint64_t bytes) { return byte_count(bytes) + (bytes == 1 ? " is missing" : " are missing"); }

// What is wrong with a file that does not begin like a safetensors file: its kind, if that is known, else `error`.
Error wrong_beginning(std::span<const std::byte> prefix, Error error) {
  if (auto kind = name_foreign_content(prefix)) error = wrong(*std::move(kind));
  error.range = ByteRange{0, kHeaderPrefixBytes};
  return error;
}

std::uint64_t little_endian(std::span<const std::byte, 8> bytes) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) value |= std::to_integer<std::uint64_t>(bytes[i]) << (8 * i);
  return value;
}

std::string dtype_and_shape(const Header& header, std::size_t i) {
  return std::string(info(header.dtype(i)).name) + ", shape " + shape_text(header.shape(i));
}

// Elements are multiplied in order, so that [2^63, 4, 0] overflows for every reader alike.
std::optional<std::uint64_t> bits_of(Dtype dtype, std::span<const std::uint64_t> shape) {
  std::optional<std::uint64_t> elements = 1;
  for (const std::uint64_t dimension : shape) {
    elements = checked_mul(*elements, dimension);
    if (!elements) return std::nullopt;
  }
  return checked_mul<std::uint64_t>(*elements, info(dtype).bits);
}

}  // namespace

Result<std::uint64_t> header_length(std::span<const std::byte> prefix, std::uint64_t source_size) {
  if (source_size == 0) return wrong("the file is empty");
  if (source_size < kHeaderPrefixBytes) {
    return wrong_beginning(prefix, wrong("the file has " + byte_count(source_size) +
                                             "; a safetensors file begins with 8 bytes that hold the header length",
                                         kHeaderPrefixBytes, source_size));
  }
  if (prefix.size() < kHeaderPrefixBytes) {
    return Error{.code = ErrorCode::kTruncated,
                 .message = "only " + byte_count(prefix.size()) + " of the 8 bytes of the header length were read",
                 .range = ByteRange{0, kHeaderPrefixBytes},
                 .expected = kHeaderPrefixBytes,
                 .got = prefix.size()};
  }

  const std::uint64_t length = little_endian(prefix.first<kHeaderPrefixBytes>());
  if (length == 0) return wrong_beginning(prefix, wrong("the header length is 0; the shortest header is '{}'"));
  if (length > kMaxHeaderBytes) {
    return wrong_beginning(prefix, wrong("the header length is " + std::to_string(length) + ", over the limit of " +
                                         std::to_string(kMaxHeaderBytes) +
                                         ": this is not a safetensors file, or its first bytes are damaged"));
  }
  const std::uint64_t header_end = kHeaderPrefixBytes + length;
  if (header_end > source_size) {
    return wrong_beginning(prefix,
                           wrong("the header ends at byte " + std::to_string(header_end) + " but the file has " +
                                     byte_count(source_size) + ": " + missing(header_end - source_size),
                                 header_end, source_size));
  }
  return length;
}

void HeaderBuilder::reserve(std::size_t header_bytes) {
  constexpr std::size_t kLeastBytesOfTensor = 64;  // of JSON, with a name of a few characters
  header_.entries_.reserve(header_bytes / kLeastBytesOfTensor);
  header_.shapes_.reserve(2 * (header_bytes / kLeastBytesOfTensor));
  header_.names_.reserve(header_bytes / 2);
}

void HeaderBuilder::add_tensor(std::string_view name, const Tensor& tensor) {
  header_.entries_.push_back({.begin = tensor.begin,
                              .end = tensor.end,
                              .name_offset = static_cast<std::uint32_t>(header_.names_.size()),
                              .name_length = static_cast<std::uint32_t>(name.size()),
                              .shape_offset = static_cast<std::uint32_t>(header_.shapes_.size() - tensor.rank),
                              .rank = static_cast<std::uint32_t>(tensor.rank),
                              .dtype = tensor.dtype});
  header_.names_.append(name);
}

Result<Header> HeaderBuilder::validate(std::uint64_t data_begin, std::uint64_t source_size) && {
  header_.data_begin_ = data_begin;
  sort_by_offset();
  for (std::size_t i = 0; i < header_.size(); ++i) {
    if (auto status = check_name(i); !status) return std::move(status).error();
    if (auto status = check_begin(i); !status) return std::move(status).error();
    if (auto status = check_size(i); !status) return std::move(status).error();
  }
  if (auto status = check_data_end(source_size); !status) return std::move(status).error();
  make_offsets_absolute();
  return std::move(header_);
}

// Names were appended in key order, so their offsets break ties by key order. Tensors without bytes come before the
// tensor that begins where they do.
void HeaderBuilder::sort_by_offset() {
  const auto by_offset = [](const HeaderEntry& entry) {
    return std::tuple(entry.begin, entry.end, entry.name_offset, entry.name_length);
  };
  if (!std::ranges::is_sorted(header_.entries_, {}, by_offset)) std::ranges::sort(header_.entries_, {}, by_offset);
}

// Names become paths, log lines and C strings; NUL would make two different names look like one.
Status HeaderBuilder::check_name(std::size_t i) const {
  const std::string_view name = header_.name(i);
  if (name.find('\0') == std::string_view::npos) return Ok{};
  return wrong("the tensor name " + quoted_text(name) + " holds a NUL character");
}

// Together the tensors cover the data from its first byte, without a hole and without an overlap.
Status HeaderBuilder::check_begin(std::size_t i) const {
  const auto [begin, end] = header_.range(i);
  if (end < begin) {
    return wrong("data_offsets of " + quoted_text(header_.name(i)) + " are [" + std::to_string(begin) + ", " +
                 std::to_string(end) + "]: the end is before the begin");
  }
  const std::uint64_t due = i == 0 ? 0 : header_.range(i - 1).end;
  if (begin == due) return Ok{};

  const std::string begins = "data_offsets of " + quoted_text(header_.name(i)) + " begin at " + std::to_string(begin);
  if (i == 0) return wrong(begins + "; the first tensor must begin at 0", due, begin);
  const std::string previous =
      ", but " + quoted_text(header_.name(i - 1)) + " before it ends at " + std::to_string(due);
  if (begin > due) return wrong(begins + previous + ": a gap of " + byte_count(begin - due), due, begin);
  return wrong(begins + previous + ": they overlap", due, begin);
}

Status HeaderBuilder::check_size(std::size_t i) const {
  const auto bits = bits_of(header_.dtype(i), header_.shape(i));
  if (!bits) {
    return wrong("the size of " + quoted_text(header_.name(i)) + " (" + dtype_and_shape(header_, i) +
                 ") is more than 64 bits can count");
  }
  if (*bits % 8 != 0) {
    return wrong(quoted_text(header_.name(i)) + " (" + dtype_and_shape(header_, i) + ") has " + std::to_string(*bits) +
                 " bits, which is not a whole number of bytes");
  }
  const ByteRange range = header_.range(i);
  if (*bits / 8 == range.size()) return Ok{};
  return wrong(quoted_text(header_.name(i)) + " (" + dtype_and_shape(header_, i) + ") takes " + byte_count(*bits / 8) +
                   ", but its data_offsets [" + std::to_string(range.begin) + ", " + std::to_string(range.end) +
                   "] hold " + byte_count(range.size()),
               *bits / 8, range.size());
}

// The last tensor ends where the file does.
Status HeaderBuilder::check_data_end(std::uint64_t source_size) const {
  const auto data_end = checked_add(header_.data_begin_, data_size());
  if (data_end == source_size) return Ok{};
  if (header_.size() == 0) {
    return wrong("the header names no tensor, but " + byte_count(source_size - header_.data_begin_) + " follow it",
                 header_.data_begin_, source_size);
  }
  const std::string last = quoted_text(header_.name(header_.size() - 1));
  if (!data_end) {
    return wrong("data_offsets of " + last + " end at " + std::to_string(data_size()) + ", which no file can reach");
  }
  const std::string ends = "data of " + last + " ends at byte " + std::to_string(*data_end) + " but the file has " +
                           byte_count(source_size) + ": ";
  if (*data_end > source_size) {
    return wrong(ends + missing(*data_end - source_size), *data_end, source_size);
  }
  return wrong(ends + byte_count(source_size - *data_end) + " too many", *data_end, source_size);
}

void HeaderBuilder::make_offsets_absolute() {
  for (HeaderEntry& entry : header_.entries_) {
    entry.begin += header_.data_begin_;
    entry.end += header_.data_begin_;
  }
}

std::uint64_t HeaderBuilder::data_size() const { return header_.size() == 0 ? 0 : header_.entries_.back().end; }

}  // namespace weightstream
