// Files that are often found where a safetensors file should be.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

namespace weightstream {

// A sentence that names what begins with `prefix` when that is a Git LFS pointer, a web page or another well-known
// kind of file, and what to do about it; nothing when it is not recognised. Only asked about bytes that are no valid
// safetensors prefix: each kind begins with bytes that, read as a header length, are far over the limit.
[[nodiscard]] std::optional<std::string> name_foreign_content(std::span<const std::byte> prefix);

}  // namespace weightstream
