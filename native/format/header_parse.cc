// From the JSON of a header to its tensors and metadata: which keys there are and what type each value has. What the
// values may be is header_validate.cc's business.
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "format/describe.h"
#include "format/header.h"
#include "format/header_builder.h"
#include "format/strict_json.h"

namespace weightstream {
namespace {

constexpr std::string_view kMetadataKey = "__metadata__";
constexpr std::string_view kNumber = "a whole number from 0 to 2^64 - 1";

class HeaderParser {
 public:
  HeaderParser(const HeaderBytes& bytes, std::uint64_t source_size)
      : size_(bytes.size()),
        source_size_(source_size),
        json_({reinterpret_cast<const char*>(bytes.data()), size_}, bytes.capacity(), kHeaderPrefixBytes) {}  // NOLINT

  Result<Header> parse() && {
    builder_.reserve(size_);
    StrictJson::Object entries;
    if (!json_.begin_document(entries) || !read_entries(entries) || !json_.end_document()) {
      return std::move(json_).error();
    }
    return std::move(builder_).validate(kHeaderPrefixBytes + size_, source_size_);
  }

 private:
  using Value = StrictJson::Value;

  // False: json_.error() says what is wrong.
  bool read_entries(StrictJson::Object entries);
  bool read_metadata(Value value);
  bool read_tensor(std::string_view name, Value value);
  bool read_dtype(std::string_view name, Value value, std::optional<Dtype>& dtype);
  bool read_shape(std::string_view name, Value value, std::optional<std::size_t>& rank);
  bool read_offsets(std::string_view name, Value value, std::optional<ByteRange>& offsets);

  std::size_t size_;
  std::uint64_t source_size_;
  StrictJson json_;
  HeaderBuilder builder_;
};

bool HeaderParser::read_entries(StrictJson::Object entries) {
  const auto place = [] { return std::string("the header"); };
  return json_.for_each_field(entries, place, [this](std::string_view key, Value value) {
    return key == kMetadataKey ? read_metadata(value) : read_tensor(key, value);
  });
}

bool HeaderParser::read_metadata(Value value) {
  // To safetensors null is what an absent key is.
  if (StrictJson::is_null(value)) return json_.skip(value, 2);
  StrictJson::Object pairs;
  if (value.get_object().get(pairs)) return json_.wrong_type(value, "__metadata__", "an object of strings");
  builder_.set_has_metadata();
  const auto place = [] { return std::string("__metadata__"); };
  return json_.for_each_field(pairs, place, [this](std::string_view key, Value text_value) {
    if (!StrictJson::is_string(text_value)) {
      return json_.wrong_type(text_value, "the value of " + quoted_text(key) + " in __metadata__", "a string");
    }
    std::string_view text;
    if (!json_.read_string(text_value, text)) return false;
    builder_.add_metadata(key, text);
    return true;
  });
}

bool HeaderParser::read_tensor(std::string_view name, Value value) {
  StrictJson::Object fields;
  if (value.get_object().get(fields)) {
    return json_.wrong_type(value, "the entry of " + quoted_text(name), "an object with dtype, shape and data_offsets");
  }
  std::optional<Dtype> dtype;
  std::optional<std::size_t> rank;
  std::optional<ByteRange> offsets;
  const auto place = [name] { return "the entry of " + quoted_text(name); };
  const auto read_field = [&](std::string_view key, Value field) {
    if (key == "dtype") return read_dtype(name, field, dtype);
    if (key == "shape") return read_shape(name, field, rank);
    if (key == "data_offsets") return read_offsets(name, field, offsets);
    return json_.skip(field, 3);
  };
  if (!json_.for_each_field(fields, place, read_field)) return false;

  const char* absent = !dtype ? "dtype" : !rank ? "shape" : !offsets ? "data_offsets" : nullptr;
  if (absent != nullptr) return json_.wrong("the entry of " + quoted_text(name) + " has no " + absent);
  builder_.add_tensor(name, {.dtype = *dtype, .rank = *rank, .begin = offsets->begin, .end = offsets->end});
  return true;
}

bool HeaderParser::read_dtype(std::string_view name, Value value, std::optional<Dtype>& dtype) {
  if (!StrictJson::is_string(value)) return json_.wrong_type(value, "dtype of " + quoted_text(name), "a string");
  std::string_view text;
  if (!json_.read_string(value, text)) return false;
  dtype = parse_dtype(text);
  if (dtype) return true;
  return json_.wrong("dtype of " + quoted_text(name) + " is " + quoted_text(text) +
                     ", which is not a dtype of safetensors");
}

bool HeaderParser::read_shape(std::string_view name, Value value, std::optional<std::size_t>& rank) {
  StrictJson::Array dimensions;
  if (value.get_array().get(dimensions)) return json_.wrong_type(value, "shape of " + quoted_text(name), "an array");
  const std::size_t first = builder_.dimensions();
  const auto read_dimension = [&](Value element) {
    std::uint64_t dimension = 0;
    if (element.get_uint64().get(dimension)) {
      return json_.wrong_type(element, "a dimension of " + quoted_text(name), kNumber);
    }
    builder_.push_dimension(dimension);
    return true;
  };
  if (!json_.for_each_element(dimensions, read_dimension)) return false;
  rank = builder_.dimensions() - first;
  return true;
}

bool HeaderParser::read_offsets(std::string_view name, Value value, std::optional<ByteRange>& offsets) {
  StrictJson::Array numbers;
  if (value.get_array().get(numbers))
    return json_.wrong_type(value, "data_offsets of " + quoted_text(name), "an array");
  ByteRange range;
  std::size_t count = 0;
  const auto read_offset = [&](Value element) {
    std::uint64_t offset = 0;
    if (element.get_uint64().get(offset))
      return json_.wrong_type(element, "an offset of " + quoted_text(name), kNumber);
    (count == 0 ? range.begin : range.end) = offset;
    ++count;
    return true;
  };
  if (!json_.for_each_element(numbers, read_offset)) return false;
  if (count != 2) {
    return json_.wrong("data_offsets of " + quoted_text(name) + " holds " + std::to_string(count) +
                       (count == 1 ? " number" : " numbers") + "; 2 are expected, begin and end");
  }
  offsets = range;
  return true;
}

}  // namespace

HeaderBytes::HeaderBytes(std::size_t size)
    : size_(size), bytes_(std::make_unique_for_overwrite<std::byte[]>(size + simdjson::SIMDJSON_PADDING)) {
  // Blank, so that what this memory was used for before never follows the text.
  std::memset(bytes_.get() + size, ' ', simdjson::SIMDJSON_PADDING);
}

std::size_t HeaderBytes::capacity() const { return size_ + simdjson::SIMDJSON_PADDING; }

Result<Header> parse_header(const HeaderBytes& json, std::uint64_t source_size) {
  return HeaderParser(json, source_size).parse();
}

}  // namespace weightstream
