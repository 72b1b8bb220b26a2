// The bytes of one tensor, owned: the bridge between a lease and what frameworks take (DLPack, the buffer protocol).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "memory/arena.h"

namespace weightstream::bindings {

class HostTensor {
 public:
  // Bytes that do not start at a multiple of `alignment` (a file may have its data anywhere) are copied to memory that
  // does: consumers, and compilers, count on it.
  HostTensor(Lease lease, std::size_t alignment);

  [[nodiscard]] std::byte* data() const { return aligned_ ? aligned_.get() : lease_ ? lease_.data() : nullptr; }
  [[nodiscard]] std::size_t size() const { return size_; }

 private:
  Lease lease_;
  std::unique_ptr<std::byte[]> aligned_;
  std::size_t size_;
};

}  // namespace weightstream::bindings
