#include "http_stream_harness.h"

#include <algorithm>
#include <optional>
#include <utility>

namespace weightstream::testing {

std::vector<MadeFile> HttpStream::make_files(const Sizes& sizes, const std::string& prefix) {
  std::vector<MadeFile> files;
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const std::string number = std::to_string(i);
    files.push_back(write_checkpoint(folder_ / ("shard" + number), sizes[i], i + 1, prefix + number + "."));
    server_->put("/shard" + number, file_content(files.back().path));
  }
  return files;
}

std::shared_ptr<HttpObject> HttpStream::object(const std::string& path) {
  HttpOptions options;
  options.policy.backoff = 0.001;
  options.policy.backoff_cap = 0.02;
  options.policy.stall_seconds = 3600;
  options.policy.hedge_seconds = 0;
  auto made = HttpObject::make(path, {.url = server_->url(path), .headers = {}, .expires_at = {}}, std::nullopt, "",
                               options, nullptr, hosts_);
  EXPECT_TRUE(made.ok());
  return *made;
}

std::vector<SourceSpec> HttpStream::objects(std::size_t count) {
  std::vector<SourceSpec> specs;
  for (std::size_t i = 0; i < count; ++i) specs.emplace_back(object("/shard" + std::to_string(i)));
  return specs;
}

TestCheckpoint HttpStream::opened(std::vector<MadeFile> files, const std::vector<SourceSpec>& specs) {
  LogSink log;
  auto checkpoint = Checkpoint::open(specs, std::nullopt, log);
  if (!checkpoint.ok()) {
    ADD_FAILURE() << checkpoint.error().message;
    return {};
  }
  TestCheckpoint made{.files = std::move(files), .checkpoint = std::move(checkpoint).value(), .items = {}};
  for (const auto ref : made.checkpoint->tensors()) {
    made.items.push_back({ref.source, made.checkpoint->header(ref).range(ref.entry)});
  }
  return made;
}

StreamOptions HttpStream::options(std::uint64_t memory_limit, bool file_order) {
  StreamOptions made;
  made.memory_limit = memory_limit;
  made.file_order = file_order;
  return made;
}

void HttpStream::expect_all(const TestCheckpoint& made, const StreamOptions& with) {
  auto stream = start(made, with);
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  const auto consumed = consume(**stream, made, made.items);
  EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "");
  EXPECT_EQ(consumed.order.size(), made.items.size());
  if (with.file_order) {
    EXPECT_TRUE(std::is_sorted(consumed.order.begin(), consumed.order.end()));
  }
  if (with.memory_limit > 0) {
    EXPECT_LE((*stream)->stats().peak_host_bytes, std::max(with.memory_limit, made.largest_span(256 * kKiB)));
  }
}

}  // namespace weightstream::testing
