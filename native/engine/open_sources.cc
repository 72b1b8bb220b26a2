#include "engine/open_sources.h"

#include <span>
#include <utility>

#include "engine/remote_heads.h"

namespace weightstream {
namespace {

class RawHeads final : public HeadConsumer {
 public:
  explicit RawHeads(std::size_t count) : heads(count) {}
  Result<std::uint64_t> take(std::size_t index, std::span<const std::byte> bytes) override {
    heads[index].assign(bytes.begin(), bytes.end());
    return bytes.size();
  }
  std::vector<std::vector<std::byte>> heads;
};

}  // namespace

Result<OpenedSources> open_sources(const std::vector<SourceSpec>& specs, LogSink& log,
                                   const std::atomic<bool>& cancelled) {
  auto sources = std::make_shared<Sources>();
  OpenedSources opened{.sources = sources, .heads = std::vector<std::vector<std::byte>>(specs.size())};
  RemotePart remote;
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (const auto* object = std::get_if<std::shared_ptr<HttpObject>>(&specs[i])) {
      if (!(*object)->size_known()) remote.add(i, *object);
      sources->list.push_back(*object);
      continue;
    }
    auto file = LocalFile::open(std::get<std::string>(specs[i]));
    if (!file) return std::move(file).error();
    if (i >= most_kept_open()) (*file)->park();
    sources->list.push_back(std::move(*file));
  }
  RawHeads heads(remote.objects.size());
  remote.start(*sources->connections, heads, log, cancelled);
  if (auto read = remote.finish(); !read) return std::move(read).error();
  for (std::size_t k = 0; k < remote.positions.size(); ++k)
    opened.heads[remote.positions[k]] = std::move(heads.heads[k]);
  return opened;
}

}  // namespace weightstream
