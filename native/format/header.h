// The safetensors header of one source: parsed, validated, sorted by offset.
//
// Format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes without a gap
// (https://github.com/huggingface/safetensors#format). What is rejected is listed in docs/reference/format.md; every
// rule lives in header_validate.cc. Nothing here allocates in proportion to a number read from the file before that
// number was compared with the size of the source.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/result.h"
#include "format/dtype.h"

namespace weightstream {

inline constexpr std::uint64_t kHeaderPrefixBytes = 8;
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;

// Uninitialised bytes for a header's JSON, followed by the slack that the JSON parser may read beyond the end.
class HeaderBytes {
 public:
  explicit HeaderBytes(std::size_t size);
  [[nodiscard]] std::byte* data() { return bytes_.get(); }
  [[nodiscard]] const std::byte* data() const { return bytes_.get(); }
  [[nodiscard]] std::size_t size() const { return size_; }
  [[nodiscard]] std::size_t capacity() const;  // size() plus the slack

 private:
  std::size_t size_;
  std::unique_ptr<std::byte[]> bytes_;
};

// One tensor of a header. Names and shapes live in the header's pools: 40,000 tensors are a handful of allocations.
struct HeaderEntry {
  std::uint64_t begin = 0;  // absolute offsets in the source
  std::uint64_t end = 0;
  std::uint32_t name_offset = 0;
  std::uint32_t name_length = 0;
  std::uint32_t shape_offset = 0;
  std::uint32_t rank = 0;
  Dtype dtype = Dtype::kU8;
};

class Header {
 public:
  // Number of tensors. They are indexed in file order: by begin, then end, then the order of their keys.
  [[nodiscard]] std::size_t size() const { return entries_.size(); }
  [[nodiscard]] const HeaderEntry& entry(std::size_t i) const { return entries_[i]; }
  [[nodiscard]] std::string_view name(std::size_t i) const {
    return std::string_view(names_).substr(entries_[i].name_offset, entries_[i].name_length);
  }
  [[nodiscard]] std::span<const std::uint64_t> shape(std::size_t i) const {
    return std::span(shapes_).subspan(entries_[i].shape_offset, entries_[i].rank);
  }
  [[nodiscard]] Dtype dtype(std::size_t i) const { return entries_[i].dtype; }
  [[nodiscard]] ByteRange range(std::size_t i) const { return {entries_[i].begin, entries_[i].end}; }
  // The `__metadata__` pairs in key order of the file; has_metadata() is false when the key is absent.
  [[nodiscard]] const std::vector<std::pair<std::string, std::string>>& metadata() const { return metadata_; }
  [[nodiscard]] bool has_metadata() const { return has_metadata_; }
  // The offset of the first tensor byte: 8 + header length.
  [[nodiscard]] std::uint64_t data_begin() const { return data_begin_; }

 private:
  friend class HeaderBuilder;
  std::vector<HeaderEntry> entries_;
  std::string names_;
  std::vector<std::uint64_t> shapes_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  bool has_metadata_ = false;
  std::uint64_t data_begin_ = 0;
};

// The header length N that `prefix` announces, checked against the size of the source and kMaxHeaderBytes.
// `prefix` is what the source begins with: at least min(8, source_size) bytes; more bytes let a Git-LFS pointer or an
// HTML page be recognised and named. Fails with kFormat.
Result<std::uint64_t> header_length(std::span<const std::byte> prefix, std::uint64_t source_size);

// Parses and validates the N bytes of JSON in `json`, for a source of `source_size` bytes. Fails with kFormat.
Result<Header> parse_header(const HeaderBytes& json, std::uint64_t source_size);

}  // namespace weightstream
