#include "engine/checkpoint.h"

#include <mutex>
#include <utility>

namespace weightstream {

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::vector<SourceSpec>& specs,
                                                           const std::optional<WeightMap>& weight_map, LogSink& log,
                                                           const std::atomic<bool>& cancelled) {
  auto opened = open_headers(specs, log, cancelled);
  if (!opened) return std::move(opened).error();
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->sources_ = std::move(opened->sources);
  checkpoint->headers_ = std::move(opened->headers);
  if (specs.size() == 1 && !weight_map) {
    checkpoint->list_only_shard();
  } else if (auto merged = checkpoint->merge_shards(weight_map); !merged) {
    return std::move(merged).error();
  } else {
    std::call_once(checkpoint->by_name_made_, [] {});  // merging needed it
  }
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

void Checkpoint::list_only_shard() {
  const auto count = static_cast<std::uint32_t>(headers_.front().size());
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
  std::vector<bool> indexed(headers_.size(), false);  // shards that the map speaks for; others keep all they have
  if (weight_map) {
    for (const auto& [name, source] : *weight_map) {
      mapped.emplace(name, source);
      indexed.at(source) = true;
    }
  }
  std::size_t count = 0;
  for (const auto& header : headers_) count += header.size();
  tensors_.reserve(count);
  by_name_.reserve(count);
  std::size_t found = 0;
  for (std::uint32_t source = 0; source < headers_.size(); ++source) {
    const Header& header = headers_[source];
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
                                sources_->at(tensors_[where->second].source).name() +
                                ", and no index says which one counts; load the files one by one",
                     .source = sources_->at(source).name()};
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
                 .source = sources_->at(source).name()};
  }
  return Ok{};
}

std::optional<std::uint32_t> Checkpoint::find(std::string_view name) const {
  const NameIndex& index = by_name();
  const auto found = index.find(name);
  if (found == index.end()) return std::nullopt;
  return found->second;
}

}  // namespace weightstream
