// A reader of JSON that looks at every value, also at those that nobody asked for, so that what it accepts is accepted
// by any JSON parser and means the same there: no key twice in one object, no half surrogate pair, no literal that
// only looks like one. simdjson does the reading; only this header and the sources that include it know simdjson.
#pragma once

#include <simdjson.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "format/duplicate_keys.h"

namespace weightstream {

// Functions that return bool return false when something is wrong; error() then says what. They are called several
// times a tensor, and an Error in each result would cost more than the parsing.
class StrictJson {
 public:
  using Object = simdjson::ondemand::object;
  using Array = simdjson::ondemand::array;
  using Value = simdjson::ondemand::value;

  // How deep arrays and objects may nest, the outermost included. A header needs 3 levels; the bound is the one of
  // safetensors' JSON parser, so that unknown values that it accepts are accepted here. It bounds the recursion.
  static constexpr int kMaxDepth = 127;

  // `text` must outlive the reader and be followed by readable bytes up to `capacity`, at least
  // simdjson::SIMDJSON_PADDING of them. `text_begin` is where it begins in the file, for messages.
  StrictJson(std::string_view text, std::size_t capacity, std::uint64_t text_begin);

  // Opens the document, which must be an object; `end_document` says whether nothing follows it.
  bool begin_document(Object& object);
  bool end_document();

  // Calls on_field(key, value) for each field of `object`; on_field consumes the value or fails. `place` makes the
  // words for where the object is ("the entry of 'x'").
  template <typename MakePlace, typename OnField>
  bool for_each_field(Object object, const MakePlace& place, const OnField& on_field);
  // Calls on_element(value) for each element; on_element consumes the value or fails.
  template <typename OnElement>
  bool for_each_element(Array array, const OnElement& on_element);

  // The first bytes of a value, without consuming it.
  static std::string_view token(Value& value) { return value.raw_json_token(); }
  static bool is_string(Value& value) { return token(value).starts_with('"'); }
  static bool is_null(Value& value) { return token(value).starts_with('n'); }

  // Consumes a string. `string` is valid as long as this reader and its text.
  bool read_string(Value& value, std::string_view& string);
  // Consumes any value. `depth` is how many arrays and objects there are with this one, if it is one.
  bool skip(Value value, int depth);

  // Fail: `message` as it is; the type of `value` ("<what> is null; <expected> is expected"), unless it is no JSON.
  bool wrong(std::string message);
  bool wrong_type(Value value, const std::string& what, std::string_view expected);

  [[nodiscard]] Error&& error() && { return std::move(error_); }

 private:
  using Field = simdjson::ondemand::field;

  bool push_key(Field& field);
  [[nodiscard]] std::string_view without_escapes(const char* string) const;
  bool skip_object(Value& value, int depth);
  bool skip_array(Value& value, int depth);
  bool skip_number(Value& value);

  bool wrong_twice(std::string_view key, const std::string& place);
  bool not_json(simdjson::error_code error);
  bool not_json(const std::string& why);

  std::string_view text_;
  std::size_t capacity_;
  std::uint64_t text_begin_;
  const char* at_;  // the last key or value that was looked at
  std::vector<std::string_view> keys_;  // of the objects that are open, innermost last
  simdjson::ondemand::parser parser_;
  simdjson::ondemand::document document_;
  Error error_;
};

template <typename MakePlace, typename OnField>
bool StrictJson::for_each_field(Object object, const MakePlace& place, const OnField& on_field) {
  const std::size_t first = keys_.size();
  for (auto result : object) {
    if (result.error()) return not_json(result.error());
    Field&& field = std::move(result).value_unsafe();
    if (!push_key(field)) return false;
    if (!on_field(keys_.back(), field.value())) return false;
  }
  if (const auto key = find_duplicate(std::span(keys_).subspan(first))) return wrong_twice(*key, place());
  keys_.resize(first);
  return true;
}

template <typename OnElement>
bool StrictJson::for_each_element(Array array, const OnElement& on_element) {
  for (auto result : array) {
    if (result.error()) return not_json(result.error());
    Value&& element = std::move(result).value_unsafe();
    at_ = token(element).data();
    if (!on_element(element)) return false;
  }
  return true;
}

}  // namespace weightstream
