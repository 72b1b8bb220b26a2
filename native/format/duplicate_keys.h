// Which key an object holds twice. A file that names a tensor twice means one of the two, and readers differ on which:
// such a file is refused rather than guessed at.
#pragma once

#include <optional>
#include <span>
#include <string_view>

namespace weightstream {

// A key that occurs more than once in `keys`, if there is one. May reorder `keys`. Bounded by O(n log n) comparisons
// whatever the keys are: keys chosen to collide in a hash only cost the sort.
[[nodiscard]] std::optional<std::string_view> find_duplicate(std::span<std::string_view> keys);

}  // namespace weightstream
