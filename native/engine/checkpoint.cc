#include "engine/checkpoint.h"

#include <sys/resource.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <new>
#include <thread>

#include "storage/core_thread.h"

namespace weightstream {
namespace {

// Most headers fit, so most checkpoints need one round trip to the storage.
constexpr std::uint64_t kSpeculativeBytes = 1 << 20;
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

Result<Checkpoint::Shard> open_shard(const std::string& path, HeaderTurns& turns) {
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
  return Checkpoint::Shard{file, std::move(*header)};
}

// How many files may stay open between the header and the data. The rest is opened again when its turn comes (and has
// to be the same file then), so that a checkpoint of more shards than descriptors works.
std::size_t most_kept_open() {
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 16;
  return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur / 4, 256));
}

}  // namespace

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::vector<std::string>& paths,
                                                           const std::optional<WeightMap>& weight_map) {
  std::vector<std::optional<Result<Shard>>> opened(paths.size());
  const auto keep = most_kept_open();
  std::atomic<std::size_t> next = 0;
  HeaderTurns turns;
  const auto work = [&] {
    for (std::size_t i = next++; i < paths.size(); i = next++) {
      try {
        opened[i].emplace(open_shard(paths[i], turns));
      } catch (const std::bad_alloc&) {
        // On a thread of ours nobody would catch it.
        opened[i].emplace(Error{.code = ErrorCode::kStorage,
                                .message = "out of memory while its header was read",
                                .source = paths[i],
                                .system_errno = ENOMEM});
      }
      if (i >= keep && opened[i]->ok()) (*opened[i])->file->park();
    }
  };
  std::vector<std::thread> helpers;
  for (std::size_t i = 1; i < std::min(paths.size(), kMostHeaderThreads); ++i) {
    std::thread helper;
    if (!start_core_thread(helper, "ws-header", work).ok()) break;  // this thread does the rest
    helpers.push_back(std::move(helper));
  }
  work();
  for (auto& helper : helpers) helper.join();

  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->shards_.reserve(paths.size());
  for (auto& shard : opened) {
    if (!shard->ok()) return std::move(*shard).error();
    checkpoint->shards_.push_back(std::move(*shard).value());
  }
  if (paths.size() == 1 && !weight_map) {
    checkpoint->list_only_shard();
  } else if (auto merged = checkpoint->merge_shards(weight_map); !merged) {
    return std::move(merged).error();
  } else {
    std::call_once(checkpoint->by_name_made_, [] {});  // merging needed it
  }
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

void Checkpoint::list_only_shard() {
  const auto count = static_cast<std::uint32_t>(shards_.front().header.size());
  tensors_.reserve(count);
  for (std::uint32_t entry = 0; entry < count; ++entry) tensors_.push_back({0, entry});
}

const Checkpoint::NameIndex& Checkpoint::by_name() const {
  std::call_once(by_name_made_, [this] {
    by_name_.reserve(tensors_.size());
    for (std::uint32_t i = 0; i < tensors_.size(); ++i) by_name_.emplace(name(tensors_[i]), i);
  });
  return by_name_;
}

Status Checkpoint::merge_shards(const std::optional<WeightMap>& weight_map) {
  std::unordered_map<std::string_view, std::uint32_t> mapped;
  std::vector<bool> indexed(shards_.size(), false);  // shards that the map speaks for; others keep all they have
  if (weight_map) {
    for (const auto& [name, source] : *weight_map) {
      mapped.emplace(name, source);
      indexed.at(source) = true;
    }
  }
  std::size_t count = 0;
  for (const auto& shard : shards_) count += shard.header.size();
  tensors_.reserve(count);
  by_name_.reserve(count);
  std::size_t found = 0;
  for (std::uint32_t source = 0; source < shards_.size(); ++source) {
    const Header& header = shards_[source].header;
    for (std::uint32_t entry = 0; entry < header.size(); ++entry) {
      const std::string_view name = header.name(entry);
      const auto wanted = mapped.find(name);
      if (wanted != mapped.end() && indexed[source]) {
        if (wanted->second != source) continue;  // the index takes this tensor from another of its shards
        ++found;
      }
      const auto [where, added] = by_name_.emplace(name, static_cast<std::uint32_t>(tensors_.size()));
      if (!added) {
        return Error{.code = ErrorCode::kFormat,
                     .message = "tensor '" + std::string(name) + "' is also in " +
                                shards_[tensors_[where->second].source].file->name() +
                                ", and no index says which one counts; load the files one by one",
                     .source = shards_[source].file->name()};
      }
      tensors_.push_back({source, entry});
    }
  }
  if (found == mapped.size()) return Ok{};
  for (const auto& [name, source] : *weight_map) {
    const auto where = by_name_.find(name);
    if (where != by_name_.end() && tensors_[where->second].source == source) continue;
    return Error{.code = ErrorCode::kFormat,
                 .message = "the index says that tensor '" + name + "' is here, but the file does not have it",
                 .source = shards_[source].file->name()};
  }
  return Ok{};
}

std::optional<std::uint32_t> Checkpoint::find(std::string_view name) const {
  const NameIndex& index = by_name();
  const auto found = index.find(name);
  if (found == index.end()) return std::nullopt;
  return found->second;
}

void Checkpoint::park() const {
  for (const auto& shard : shards_) shard.file->park();
}

}  // namespace weightstream
