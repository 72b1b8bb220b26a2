// An opened checkpoint: its sources, each with its validated header. Immutable after open(); shared by the streams.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/open_headers.h"
#include "engine/sources.h"
#include "format/header.h"

namespace weightstream {

// One tensor of a checkpoint: which source, and which entry of that source's header.
struct TensorRef {
  std::uint32_t source = 0;
  std::uint32_t entry = 0;
  friend bool operator==(const TensorRef&, const TensorRef&) = default;
};

class Checkpoint {
 public:
  // What an index says: tensor name -> position in the list of sources.
  using WeightMap = std::vector<std::pair<std::string, std::uint32_t>>;

  // Reads and validates the headers of all sources in parallel. Of local files, it fails with the error of the first
  // (in their order) that has one. With a weight map every name in it must be in the shard it names, and of a tensor
  // that several shards have the mapped one counts; without one, a tensor in two shards is a kFormat error.
  // `cancelled` may be set by another thread: kClosed then.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::vector<SourceSpec>& specs,
                                                        const std::optional<WeightMap>& weight_map, LogSink& log,
                                                        const std::atomic<bool>& cancelled = kNeverCancelled);

  [[nodiscard]] const std::shared_ptr<const Sources>& sources() const { return sources_; }
  [[nodiscard]] const Header& header_of(std::size_t source) const { return headers_[source]; }
  // All tensors, in file order: source by source, by offset in each.
  [[nodiscard]] const std::vector<TensorRef>& tensors() const { return tensors_; }
  [[nodiscard]] const Header& header(TensorRef ref) const { return headers_[ref.source]; }
  [[nodiscard]] std::string_view name(TensorRef ref) const { return header(ref).name(ref.entry); }
  // Position in tensors(), or nothing. The first call may take milliseconds.
  [[nodiscard]] std::optional<std::uint32_t> find(std::string_view name) const;

  // Closes the descriptors and connections that the checkpoint keeps. Streams that run keep theirs.
  void park() const { sources_->park(); }

 private:
  using NameIndex = std::unordered_map<std::string_view, std::uint32_t>;  // views into the headers' pools

  void list_only_shard();
  Status merge_shards(const std::optional<WeightMap>& weight_map);
  const NameIndex& by_name() const;

  std::shared_ptr<const Sources> sources_;
  std::vector<Header> headers_;  // of each source
  std::vector<TensorRef> tensors_;
  // A single shard has no names to reconcile: its index is made when somebody asks, so that a stream starts sooner.
  mutable std::once_flag by_name_made_;
  mutable NameIndex by_name_;
};

}  // namespace weightstream
