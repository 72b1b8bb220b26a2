#include "format/strict_json.h"

#include <cerrno>
#include <cstring>

#include "format/describe.h"

namespace weightstream {
namespace {

// A guess at how many bytes of text there are to a key that is open. Memory that is not used is not touched.
constexpr std::size_t kUsualBytesOfKey = 64;

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

// Unescaping may leave half a surrogate pair, which is not UTF-8.
bool is_utf8(std::string_view text) { return simdjson::validate_utf8(text.data(), text.size()); }

}  // namespace

StrictJson::StrictJson(std::string_view text, std::size_t capacity, std::uint64_t text_begin)
    : text_(text), capacity_(capacity), text_begin_(text_begin), at_(text.data()) {
  keys_.reserve(text.size() / kUsualBytesOfKey);
}

bool StrictJson::begin_document(Object& object) {
  if (text_.starts_with(kByteOrderMark)) return wrong("the header begins with a byte order mark instead of '{'");

  const simdjson::padded_string_view padded(text_.data(), text_.size(), capacity_);
  if (const auto error = parser_.iterate(padded).get(document_)) return not_json(error);
  const auto error = document_.get_object().get(object);
  if (!error) return true;
  if (error != simdjson::INCORRECT_TYPE) {
    return wrong("the header is not valid JSON: it does not end with the '}' of its object");
  }
  std::string_view found;
  if (const auto no_token = document_.raw_json_token().get(found)) return not_json(no_token);
  return wrong("the header is " + json_value_text(found) + "; an object is expected");
}

bool StrictJson::end_document() {
  if (document_.current_location().get(at_) == simdjson::OUT_OF_BOUNDS) return true;
  return not_json("text follows its object");
}

// simdjson copies a string to unescape it. Nearly none has an escape: those are used in place. The first pass of
// simdjson has already refused control characters, unclosed strings and bytes that are not UTF-8.
bool StrictJson::push_key(Field& field) {
  const char* const string = field.key().raw();
  at_ = string - 1;
  std::string_view key = without_escapes(string);
  if (key.data() == nullptr && (field.unescaped_key().get(key) || !is_utf8(key))) {
    return not_json(simdjson::STRING_ERROR);
  }
  keys_.push_back(key);
  return true;
}

bool StrictJson::read_string(Value& value, std::string_view& string) {
  at_ = token(value).data();
  string = without_escapes(at_ + 1);
  if (string.data() == nullptr) {
    return value.get_string().get(string) || !is_utf8(string) ? not_json(simdjson::STRING_ERROR) : true;
  }
  simdjson::ondemand::raw_json_string consumed;
  if (const auto error = value.get_raw_json_string().get(consumed)) return not_json(error);
  return true;
}

// The string whose first character is at `string`; a view of nothing if it has escapes.
std::string_view StrictJson::without_escapes(const char* string) const {
  const char* const text_end = text_.data() + text_.size();
  const auto* const quote =
      static_cast<const char*>(std::memchr(string, '"', static_cast<std::size_t>(text_end - string)));
  if (quote == nullptr) return {};
  const auto size = static_cast<std::size_t>(quote - string);
  if (std::memchr(string, '\\', size) != nullptr) return {};
  return {string, size};
}

bool StrictJson::skip(Value value, int depth) {
  const std::string_view found = token(value);
  at_ = found.data();
  switch (found.empty() ? '\0' : found.front()) {
    case '{':
      return skip_object(value, depth);
    case '[':
      return skip_array(value, depth);
    case '"': {
      std::string_view string;
      return read_string(value, string);
    }
    case 't':
    case 'f': {
      bool literal = false;
      return value.get_bool().get(literal) ? not_json(json_value_text(found) + " is not a value") : true;
    }
    case 'n': {
      bool null = false;
      return value.is_null().get(null) || !null ? not_json(json_value_text(found) + " is not a value") : true;
    }
    case ',':
    case ':':
    case ']':
    case '}':
    case '\0':
      return not_json("a value is missing");
    default:
      return skip_number(value);
  }
}

bool StrictJson::skip_object(Value& value, int depth) {
  if (depth > kMaxDepth) return wrong("the header nests deeper than " + std::to_string(kMaxDepth) + " levels");
  Object object;
  if (const auto error = value.get_object().get(object)) return not_json(error);
  const auto place = [] { return std::string("one object"); };
  return for_each_field(object, place, [&](std::string_view, Value field) { return skip(field, depth + 1); });
}

bool StrictJson::skip_array(Value& value, int depth) {
  if (depth > kMaxDepth) return wrong("the header nests deeper than " + std::to_string(kMaxDepth) + " levels");
  Array array;
  if (const auto error = value.get_array().get(array)) return not_json(error);
  return for_each_element(array, [&](Value element) { return skip(element, depth + 1); });
}

// Read as a double, because integers of any length are JSON. One that no double can hold is refused, as by most
// parsers, safetensors' among them.
bool StrictJson::skip_number(Value& value) {
  double number = 0;
  if (!value.get_double().get(number)) return true;
  return not_json(json_value_text(token(value)) + " is not a value");
}

bool StrictJson::wrong(std::string message) {
  error_ = {.code = ErrorCode::kFormat, .message = std::move(message)};
  return false;
}

bool StrictJson::wrong_type(Value value, const std::string& what, std::string_view expected) {
  const std::string found = json_value_text(token(value));
  return skip(value, 1) && wrong(what + " is " + found + "; " + std::string(expected) + " is expected");
}

bool StrictJson::wrong_twice(std::string_view key, const std::string& place) {
  return wrong("the key " + quoted_text(key) + " occurs twice in " + place);
}

bool StrictJson::not_json(const std::string& why) {
  const std::uint64_t byte = text_begin_ + static_cast<std::uint64_t>(at_ - text_.data());
  return wrong("the header is not valid JSON: " + why + " (near byte " + std::to_string(byte) + " of the file)");
}

bool StrictJson::not_json(simdjson::error_code error) {
  switch (error) {
    case simdjson::MEMALLOC:
      error_ = {.code = ErrorCode::kStorage,
                .message = "no memory to parse a header of " + byte_count(text_.size()),
                .system_errno = ENOMEM};
      return false;
    case simdjson::EMPTY:
      return wrong("the header is blank; an object is expected");
    case simdjson::UTF8_ERROR:
      return wrong("the header is not UTF-8");
    case simdjson::UNCLOSED_STRING:
      return wrong("the header is not valid JSON: a string is not closed");
    case simdjson::UNESCAPED_CHARS:
      return wrong("the header is not valid JSON: a string holds a control character");
    case simdjson::STRING_ERROR:
      return not_json("a string has a wrong escape or half a surrogate pair");
    default:
      return not_json("a comma, colon, quote or bracket is missing or misplaced");
  }
}

}  // namespace weightstream
