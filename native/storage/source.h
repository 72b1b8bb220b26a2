// A readable object as the engine sees it: a name for messages and a size. What a reader needs beyond that is in the
// class of its kind (LocalFile).
#pragma once

#include <cstdint>
#include <string>

namespace weightstream {

class Source {
 public:
  virtual ~Source() = default;
  // For messages; safe to print.
  [[nodiscard]] virtual const std::string& name() const = 0;
  [[nodiscard]] virtual std::uint64_t size() const = 0;
};

}  // namespace weightstream
