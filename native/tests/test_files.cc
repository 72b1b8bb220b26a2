#include "test_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>

#include "safetensors_bytes.h"

namespace weightstream::testing {
namespace {

constexpr std::size_t kChunk = 1 << 20;

[[noreturn]] void fail(const std::string& what) { throw std::runtime_error(what + ": " + std::strerror(errno)); }

std::uint64_t word(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t x = (index + 1) * 0x9E3779B97F4A7C15U + seed * 0xD1B54A32D192ED03U;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9U;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBU;
  return x ^ (x >> 31);
}

class Output {
 public:
  explicit Output(const std::string& path) : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) {
    if (fd_ < 0) fail("open " + path);
  }
  ~Output() { ::close(fd_); }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;

  void write(const void* bytes, std::size_t size, std::uint64_t offset) const {
    if (::pwrite(fd_, bytes, size, static_cast<off_t>(offset)) != static_cast<ssize_t>(size)) fail("pwrite");
  }
  void write_pattern(ByteRange range, std::uint64_t seed) const {
    std::vector<std::byte> chunk(std::min<std::uint64_t>(kChunk, range.size()));
    for (std::uint64_t at = range.begin; at < range.end; at += chunk.size()) {
      const auto part = std::span(chunk).first(std::min<std::uint64_t>(chunk.size(), range.end - at));
      fill_pattern(part, seed, at);
      write(part.data(), part.size(), at);
    }
  }
  void resize(std::uint64_t size) const {
    if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) fail("ftruncate");
  }

 private:
  int fd_;
};

std::int64_t mtime_ns(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) fail("stat " + path);
  return static_cast<std::int64_t>(status.st_mtim.tv_sec) * 1'000'000'000 + status.st_mtim.tv_nsec;
}

}  // namespace

std::string TempDir::default_parent() {
  const char* folder = std::getenv("TMPDIR");
  return folder == nullptr ? "/tmp" : folder;
}

TempDir::TempDir(const std::string& parent) : path_(parent + "/weightstream-test-XXXXXX") {
  if (::mkdtemp(path_.data()) == nullptr) fail("mkdtemp in " + parent);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void fill_pattern(std::span<std::byte> into, std::uint64_t seed, std::uint64_t offset) {
  for (std::size_t done = 0; done < into.size();) {
    const std::uint64_t at = offset + done;
    const std::uint64_t value = word(seed, at / 8);
    const std::size_t skip = at % 8;
    const std::size_t bytes = std::min<std::size_t>(8 - skip, into.size() - done);
    std::memcpy(into.data() + done, reinterpret_cast<const char*>(&value) + skip, bytes);
    done += bytes;
  }
}

std::optional<std::uint64_t> first_wrong(std::span<const std::byte> bytes, std::uint64_t seed, std::uint64_t offset) {
  std::vector<std::byte> expected(std::min(kChunk, bytes.size()));
  for (std::size_t done = 0; done < bytes.size(); done += expected.size()) {
    const auto part = bytes.subspan(done, std::min(expected.size(), bytes.size() - done));
    fill_pattern(std::span(expected).first(part.size()), seed, offset + done);
    if (std::memcmp(part.data(), expected.data(), part.size()) == 0) continue;
    const auto [wrong, _] = std::mismatch(part.begin(), part.end(), expected.begin());
    return offset + done + static_cast<std::uint64_t>(wrong - part.begin());
  }
  return std::nullopt;
}

void write_pattern_file(const std::string& path, std::uint64_t size, std::uint64_t seed) {
  Output(path).write_pattern({0, size}, seed);
}

MadeFile write_checkpoint(const std::string& path, const std::vector<std::uint64_t>& sizes, std::uint64_t seed,
                          const std::string& prefix, std::uint64_t hole_from) {
  std::string header = "{";
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    header += (i == 0 ? "\"" : ",\"") + prefix + std::to_string(i) + R"(":{"dtype":"U8","shape":[)" +
              std::to_string(sizes[i]) + R"(],"data_offsets":[)" + std::to_string(offset) + "," +
              std::to_string(offset + sizes[i]) + "]}";
    offset += sizes[i];
  }
  header += "}";

  MadeFile made{.path = path, .seed = seed, .tensors = {}, .data_begin = 8 + header.size()};
  const std::string head = file_of(header);
  const Output file(path);
  file.write(head.data(), head.size(), 0);
  file.resize(made.data_begin + offset);
  std::uint64_t begin = made.data_begin;
  for (const auto size : sizes) {
    if (size < hole_from) file.write_pattern({begin, begin + size}, seed);
    made.tensors.push_back({begin, begin + size});
    begin += size;
  }
  return made;
}

void drop_from_cache(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("open " + path);
  ::fdatasync(fd);  // dirty pages stay
  ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

void touch(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  if (fd < 0) fail("open " + path);
  const auto before = mtime_ns(path);
  char first = 0;
  while (mtime_ns(path) == before) {
    if (::pread(fd, &first, 1, 0) != 1 || ::pwrite(fd, &first, 1, 0) != 1) fail("write to " + path);
  }
  ::close(fd);
}

}  // namespace weightstream::testing
