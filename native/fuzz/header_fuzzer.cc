// Fuzzes the way from a file's bytes to its header. Whatever is accepted must be a header that the engine can trust:
// the tensors tile the data, lie inside the file, and have the sizes of their shapes; and the JSON must be JSON to a
// parser that shares none of our code above it.
#include <simdjson.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <span>
#include <string>

#include "format/header.h"

namespace {

using weightstream::ByteRange;
using weightstream::Header;

void require(bool condition, const char* what) {
  if (condition) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

void check_ranges(const Header& header, std::uint64_t source_size) {
  std::uint64_t due = header.data_begin();
  for (std::size_t i = 0; i < header.size(); ++i) {
    const ByteRange range = header.range(i);
    require(range.begin == due, "tensors tile the data in file order");
    require(range.end >= range.begin && range.end <= source_size, "tensors lie inside the source");
    due = range.end;
  }
  require(due == source_size, "the last tensor ends where the source does");
}

void check_sizes(const Header& header) {
  for (std::size_t i = 0; i < header.size(); ++i) {
    // Wider than any product that can pass.
    unsigned __int128 bits = info(header.dtype(i)).bits;
    for (const std::uint64_t dimension : header.shape(i)) {
      bits *= dimension;
      require(bits <= UINT64_MAX, "sizes fit 64 bits");
    }
    require(bits == static_cast<unsigned __int128>(header.range(i).size()) * 8, "sizes are those of the shapes");
  }
}

void check_names(const Header& header) {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < header.size(); ++i) {
    const std::string_view name = header.name(i);
    require(name.find('\0') == std::string_view::npos, "names have no NUL");
    require(simdjson::validate_utf8(name.data(), name.size()), "names are UTF-8");
    require(names.insert(name).second, "names are unique");
  }
  std::set<std::string_view> keys;
  for (const auto& [key, value] : header.metadata()) require(keys.insert(key).second, "metadata keys are unique");
}

// Whether there are 19 digits in a row. Integers over 64 bits are the only JSON that simdjson's other parser refuses;
// they may stand in values that no rule looks at.
bool has_long_number(std::string_view text) {
  int digits = 0;
  for (const char c : text) {
    digits = c >= '0' && c <= '9' ? digits + 1 : 0;
    if (digits == 19) return true;
  }
  return false;
}

void check_json(std::string_view text, const Header& header) {
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  const auto error = parser.parse(text.data(), text.size()).get(document);
  if (error && has_long_number(text)) return;
  require(!error, "another parser accepts the JSON");
  simdjson::dom::object object;
  require(!document.get_object().get(object), "the JSON is an object");
  std::size_t tensors = 0;
  for (const auto field : object) tensors += field.key == "__metadata__" ? 0 : 1;
  require(tensors == header.size(), "every entry is a tensor");
}

void check_message(const std::string& message) {
  require(!message.empty() && message.size() < 1000, "messages are bounded");
  require(simdjson::validate_utf8(message.data(), message.size()), "messages are UTF-8");
  for (const char c : message) require(static_cast<unsigned char>(c) >= 0x20 && c != 0x7F, "messages are printable");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto file = std::as_bytes(std::span(data, size));
  const auto length = weightstream::header_length(file, size);
  if (!length) {
    check_message(length.error().message);
    return 0;
  }
  weightstream::HeaderBytes json(*length);
  std::memcpy(json.data(), data + weightstream::kHeaderPrefixBytes, *length);
  const auto header = weightstream::parse_header(json, size);
  if (!header) {
    check_message(header.error().message);
    return 0;
  }
  check_ranges(*header, size);
  check_sizes(*header);
  check_names(*header);
  check_json({reinterpret_cast<const char*>(json.data()), json.size()}, *header);  // NOLINT(*-reinterpret-cast)
  return 0;
}
