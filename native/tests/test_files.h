// Files for tests, filled with a pattern in which every byte depends on the file and on its own offset: bytes that
// come from another place, another file or an earlier read never pass for the right ones.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace weightstream::testing {

// A folder of its own on the disk that holds temporary files; removed with what is in it.
class TempDir {
 public:
  explicit TempDir(const std::string& parent = default_parent());
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  [[nodiscard]] std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

 private:
  static std::string default_parent();
  std::string path_;
};

// The bytes that a file made with `seed` has from `offset` on.
void fill_pattern(std::span<std::byte> into, std::uint64_t seed, std::uint64_t offset);
// Offset of the first byte of `bytes`, which the file has from `offset` on, that is wrong.
[[nodiscard]] std::optional<std::uint64_t> first_wrong(std::span<const std::byte> bytes, std::uint64_t seed,
                                                       std::uint64_t offset);

// A file of `size` bytes of pattern.
void write_pattern_file(const std::string& path, std::uint64_t size, std::uint64_t seed);

struct MadeFile {
  std::string path;
  std::uint64_t seed = 0;
  std::vector<ByteRange> tensors;  // in file order
  std::uint64_t data_begin = 0;
};

// A safetensors file of U8 tensors of `sizes` bytes, named `prefix` and a number. Tensors of `hole_from` bytes or more
// are left as holes; the others hold the pattern.
MadeFile write_checkpoint(const std::string& path, const std::vector<std::uint64_t>& sizes, std::uint64_t seed,
                          const std::string& prefix = "t", std::uint64_t hole_from = UINT64_MAX);

// Drops the file from the page cache, as far as the filesystem does that.
void drop_from_cache(const std::string& path);
// Writes the file's first byte again until its modification time, which has a granularity, is another one.
void touch(const std::string& path);

}  // namespace weightstream::testing
