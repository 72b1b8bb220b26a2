// Checkpoints whose files are on a scripted server, and streams of them.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/checkpoint.h"
#include "engine/stream.h"
#include "http_test_server.h"
#include "process_state.h"
#include "stream_harness.h"

namespace weightstream::testing {

class HttpStream : public ::testing::Test {
 protected:
  using Sizes = std::vector<std::vector<std::uint64_t>>;  // of the tensors of each file

  // The files are on the server too: file i at "/shard<i>".
  std::vector<MadeFile> make_files(const Sizes& sizes, const std::string& prefix = "shard");
  // The object at `path`, before anything is known of it.
  std::shared_ptr<HttpObject> object(const std::string& path);
  // The first `count` shards.
  std::vector<SourceSpec> objects(std::size_t count);
  static TestCheckpoint opened(std::vector<MadeFile> files, const std::vector<SourceSpec>& specs);
  TestCheckpoint make_remote(const Sizes& sizes) { return opened(make_files(sizes), objects(sizes.size())); }

  static StreamOptions options(std::uint64_t memory_limit = 0, bool file_order = false);
  // Takes everything, in order and within the limit if one is asked for.
  static void expect_all(const TestCheckpoint& made, const StreamOptions& with = options());

  Watchdog watchdog_;
  TempDir folder_;
  std::unique_ptr<HttpTestServer> server_ = HttpTestServer::make();
  HttpHosts hosts_;
};

}  // namespace weightstream::testing
