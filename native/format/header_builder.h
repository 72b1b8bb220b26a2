// The private side of Header: the parser fills a builder, the validator turns it into a Header or says what is wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "format/header.h"

namespace weightstream {

class HeaderBuilder {
 public:
  // What the entry of one tensor says. Offsets count from the end of the header, as the file has them.
  struct Tensor {
    Dtype dtype = Dtype::kU8;
    std::size_t rank = 0;  // that many dimensions were pushed last
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
  };

  // Room for what a header of that many bytes usually holds. Memory that is not used is not touched.
  void reserve(std::size_t header_bytes);
  void push_dimension(std::uint64_t dimension) { header_.shapes_.push_back(dimension); }
  [[nodiscard]] std::size_t dimensions() const { return header_.shapes_.size(); }
  // Pools are indexed with 32 bits: they hold less than the header has bytes, which is at most kMaxHeaderBytes.
  void add_tensor(std::string_view name, const Tensor& tensor);
  void add_metadata(std::string_view key, std::string_view value) { header_.metadata_.emplace_back(key, value); }
  void set_has_metadata() { header_.has_metadata_ = true; }

  // Every rule of the format that is not JSON's is checked here (header_validate.cc).
  [[nodiscard]] Result<Header> validate(std::uint64_t data_begin, std::uint64_t source_size) &&;

 private:
  void sort_by_offset();
  [[nodiscard]] Status check_name(std::size_t i) const;
  [[nodiscard]] Status check_begin(std::size_t i) const;
  [[nodiscard]] Status check_size(std::size_t i) const;
  [[nodiscard]] Status check_data_end(std::uint64_t source_size) const;
  void make_offsets_absolute();
  [[nodiscard]] std::uint64_t data_size() const;  // where the last tensor ends

  Header header_;
};

}  // namespace weightstream
