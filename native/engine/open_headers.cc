#include "engine/open_headers.h"

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "base/core_thread.h"
#include "engine/remote_heads.h"

namespace weightstream {
namespace {

constexpr std::size_t kMostHeaderThreads = 16;

// Bounds the memory of headers that are parsed at the same time: ordinary ones all at once, huge ones one by one.
class HeaderTurns {
 public:
  class Turn {
   public:
    Turn(HeaderTurns& turns, std::uint64_t bytes) : turns_(turns), bytes_(bytes) {}
    Turn(const Turn&) = delete;
    Turn& operator=(const Turn&) = delete;
    ~Turn() {
      const std::lock_guard lock(turns_.mutex_);
      turns_.taken_ -= bytes_;
      turns_.freed_.notify_all();
    }

   private:
    HeaderTurns& turns_;
    std::uint64_t bytes_;
  };

  [[nodiscard]] Turn take(std::uint64_t bytes) {
    std::unique_lock lock(mutex_);
    freed_.wait(lock, [&] { return taken_ == 0 || taken_ + bytes <= kMostBytes; });
    taken_ += bytes;
    return {*this, bytes};
  }

 private:
  static constexpr std::uint64_t kMostBytes = std::uint64_t{64} << 20;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::uint64_t taken_ = 0;
};

Result<std::pair<std::shared_ptr<LocalFile>, Header>> read_local_header(const std::string& path, HeaderTurns& turns) {
  auto opened = LocalFile::open(path);
  if (!opened) return std::move(opened).error();
  const auto file = std::move(*opened);
  auto handle = file->handle();
  if (!handle) return std::move(handle).error();
  const int fd = (*handle)->buffered.get();

  const auto head_bytes = std::min(kSpeculativeBytes, file->size());
  const auto head = std::make_unique_for_overwrite<std::byte[]>(head_bytes);
  if (auto read = file->read_exactly(fd, head.get(), 0, head_bytes); !read) return std::move(read).error();
  auto length = header_length(std::span(head.get(), head_bytes), file->size());
  if (!length) return std::move(length).error().at(path);

  const auto turn = turns.take(*length);
  HeaderBytes json(*length);
  const auto have = std::min(*length, head_bytes - kHeaderPrefixBytes);
  std::memcpy(json.data(), head.get() + kHeaderPrefixBytes, have);
  if (auto read = file->read_exactly(fd, json.data() + have, kHeaderPrefixBytes + have, *length - have); !read) {
    return std::move(read).error();
  }
  // A header that was being written while it was read must not be believed.
  if (auto same = file->check_unchanged(fd); !same) return std::move(same).error();
  auto header = parse_header(json, file->size());
  if (!header) return std::move(header).error().at(path);
  return std::pair{file, std::move(*header)};
}

// Parses the headers of objects as they come.
class RemoteHeaders final : public HeadConsumer {
 public:
  RemoteHeaders(const std::vector<std::shared_ptr<HttpObject>>& objects, HeaderTurns& turns)
      : headers(objects.size()), objects_(objects), turns_(turns) {}

  Result<std::uint64_t> take(std::size_t index, std::span<const std::byte> bytes) override {
    const auto size = objects_[index]->size();
    auto length = header_length(bytes, size);
    if (!length) return std::move(length).error();
    const auto needed = kHeaderPrefixBytes + *length;
    if (bytes.size() < needed) return needed;
    const auto turn = turns_.take(*length);
    HeaderBytes json(*length);
    std::memcpy(json.data(), bytes.data() + kHeaderPrefixBytes, *length);
    auto header = parse_header(json, size);
    if (!header) return std::move(header).error();
    headers[index] = std::move(*header);
    return needed;
  }

  std::vector<std::optional<Header>> headers;

 private:
  const std::vector<std::shared_ptr<HttpObject>>& objects_;
  HeaderTurns& turns_;
};

// Runs `work(i)` for i in [0, count) on this thread and some helpers.
void run_in_parallel(std::size_t count, const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next = 0;
  const auto run = [&] {
    for (std::size_t i = next++; i < count; i = next++) work(i);
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(count, kMostHeaderThreads); ++i) {
    std::thread helper;
    if (!start_core_thread(helper, "ws-header", run).ok()) break;  // this thread does the rest
    helpers.push_back(std::move(helper));
  }
  run();
  for (auto& helper : helpers) helper.join();
}

}  // namespace

Result<OpenedHeaders> open_headers(const std::vector<SourceSpec>& specs, LogSink& log,
                                   const std::atomic<bool>& cancelled) {
  auto sources = std::make_shared<Sources>();
  sources->list.resize(specs.size());
  std::vector<std::optional<Result<Header>>> headers(specs.size());
  HeaderTurns turns;
  RemotePart remote;
  std::vector<std::size_t> local;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (const auto* object = std::get_if<std::shared_ptr<HttpObject>>(&specs[i])) {
      remote.add(i, *object);
      sources->list[i] = *object;
    } else {
      local.push_back(i);
    }
  }
  RemoteHeaders remote_headers(remote.objects, turns);
  remote.start(*sources->connections, remote_headers, log, cancelled);

  const auto keep = most_kept_open();
  run_in_parallel(local.size(), [&](std::size_t k) {
    const auto i = local[k];
    const auto& path = std::get<std::string>(specs[i]);
    try {
      auto read = read_local_header(path, turns);
      if (!read) {
        headers[i].emplace(std::move(read).error());
        return;
      }
      if (k >= keep) read->first->park();
      sources->list[i] = read->first;
      headers[i].emplace(std::move(read->second));
    } catch (const std::bad_alloc&) {
      // On a thread of ours nobody would catch it.
      headers[i].emplace(Error{.code = ErrorCode::kStorage,
                               .message = "out of memory while its header was read",
                               .source = path,
                               .system_errno = ENOMEM});
    }
  });
  auto remote_read = remote.finish();
  for (const auto i : local) {
    if (!headers[i]->ok()) return std::move(*headers[i]).error();
  }
  if (!remote_read) return std::move(remote_read).error();

  OpenedHeaders opened{.sources = std::move(sources), .headers = {}};
  for (std::size_t k = 0; k < remote.positions.size(); ++k) {
    headers[remote.positions[k]].emplace(std::move(*remote_headers.headers[k]));
  }
  opened.headers.reserve(specs.size());
  for (auto& header : headers) opened.headers.push_back(std::move(*header).value());
  return opened;
}

}  // namespace weightstream
