// Opening checkpoints: many shards at once, names that occur twice, what an index says, which error is told.
#include "engine/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "process_state.h"
#include "safetensors_bytes.h"
#include "test_files.h"

namespace weightstream {
namespace {

using testing::TempDir;
using testing::write_checkpoint;

std::vector<SourceSpec> specs(const std::vector<std::string>& paths) { return {paths.begin(), paths.end()}; }

class CheckpointTest : public ::testing::Test {
 protected:
  std::string shard(const std::string& file, const std::vector<std::uint64_t>& sizes, const std::string& prefix) {
    return write_checkpoint(folder_ / file, sizes, 1, prefix).path;
  }
  std::string written(const std::string& file, const std::string& bytes) {
    std::ofstream(folder_ / file, std::ios::binary) << bytes;
    return folder_ / file;
  }
  static std::shared_ptr<const Checkpoint> opened(const std::vector<std::string>& paths,
                                                  const std::optional<Checkpoint::WeightMap>& map = std::nullopt) {
    LogSink log;
    auto checkpoint = Checkpoint::open(specs(paths), map, log);
    EXPECT_TRUE(checkpoint.ok()) << (checkpoint.ok() ? "" : checkpoint.error().message);
    return checkpoint.ok() ? *checkpoint : nullptr;
  }
  static Error refusal(const std::vector<std::string>& paths,
                       const std::optional<Checkpoint::WeightMap>& map = std::nullopt) {
    LogSink log;
    auto checkpoint = Checkpoint::open(specs(paths), map, log);
    EXPECT_FALSE(checkpoint.ok());
    return checkpoint.ok() ? Error{} : checkpoint.error();
  }

  TempDir folder_;
};

TEST_F(CheckpointTest, OfNoFilesHasNoTensors) { EXPECT_TRUE(opened({})->tensors().empty()); }

TEST_F(CheckpointTest, ListsTensorsInFileOrderAndFindsThemByName) {
  const auto checkpoint = opened({shard("b", {10, 0, 20}, "b"), shard("a", {5}, "a")});
  ASSERT_EQ(checkpoint->tensors().size(), 4U);
  std::vector<std::string> names;
  for (const auto ref : checkpoint->tensors()) names.emplace_back(checkpoint->name(ref));
  EXPECT_EQ(names, (std::vector<std::string>{"b0", "b1", "b2", "a0"}));
  for (std::uint32_t i = 0; i < names.size(); ++i) EXPECT_EQ(checkpoint->find(names[i]), i);
  EXPECT_EQ(checkpoint->find("c"), std::nullopt);
  EXPECT_EQ(checkpoint->tensors()[3], (TensorRef{1, 0}));
}

TEST_F(CheckpointTest, OpensMoreShardsThanThreads) {
  std::vector<std::string> paths;
  for (int i = 0; i < 100; ++i) paths.push_back(shard("s" + std::to_string(i), {16}, "t" + std::to_string(i) + "."));
  const auto threads = testing::count_threads();
  const auto checkpoint = opened(paths);
  ASSERT_EQ(checkpoint->sources()->size(), 100U);
  for (std::uint32_t i = 0; i < 100; ++i) {
    EXPECT_EQ(checkpoint->sources()->at(i).name(), paths[i]);
    EXPECT_EQ(checkpoint->name(checkpoint->tensors()[i]), "t" + std::to_string(i) + ".0");
  }
  EXPECT_TRUE(testing::eventually([&] { return testing::count_threads() <= threads; }));
}

TEST_F(CheckpointTest, MoreShardsThanDescriptorsWork) {
  std::vector<std::string> paths;
  for (int i = 0; i < 60; ++i) paths.push_back(shard("s" + std::to_string(i), {16}, "t" + std::to_string(i) + "."));
  const int outcome = testing::in_child([&] {
    const struct rlimit limit{40, 40};  // some are in use already; 16 threads open one file each at a time
    if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) return 1;
    LogSink log;
    return Checkpoint::open(specs(paths), std::nullopt, log).ok() ? 0 : 2;
  });
  EXPECT_EQ(outcome, 0);
}

TEST_F(CheckpointTest, ReadsAHeaderThatIsLongerThanTheFirstRead) {
  const std::string padding(3 << 20, ' ');
  const auto path =
      written("long", testing::file_of(R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})" + padding, 4));
  const auto checkpoint = opened({path});
  ASSERT_EQ(checkpoint->tensors().size(), 1U);
  EXPECT_EQ(checkpoint->header_of(0).range(0).end, std::filesystem::file_size(path));
}

TEST_F(CheckpointTest, TensorInTwoShardsIsRefused) {
  const auto error = refusal({shard("a", {5}, "t"), shard("b", {5, 6}, "t")});
  EXPECT_EQ(error.code, ErrorCode::kFormat);
  EXPECT_EQ(error.source, folder_ / "b");
  EXPECT_NE(error.message.find("'t0' is also in " + (folder_ / "a")), std::string::npos) << error.message;
}

TEST_F(CheckpointTest, IndexSaysWhichOfTwoCounts) {
  const std::vector<std::string> paths{shard("a", {5, 4, 3}, "t"), shard("b", {7, 6}, "t")};
  const auto checkpoint = opened(paths, Checkpoint::WeightMap{{"t0", 1}, {"t1", 1}, {"t2", 0}});
  ASSERT_EQ(checkpoint->tensors().size(), 3U);
  EXPECT_EQ(checkpoint->tensors()[0], (TensorRef{0, 2}));
  EXPECT_EQ(checkpoint->tensors()[1], (TensorRef{1, 0}));
  EXPECT_EQ(checkpoint->find("t1"), 2U);
}

TEST_F(CheckpointTest, IndexDoesNotSpeakForAFileBesideIt) {
  const std::vector<std::string> paths{shard("a", {5}, "t"), shard("b", {7, 6}, "t")};
  const auto error = refusal(paths, Checkpoint::WeightMap{{"t0", 1}, {"t1", 1}});
  EXPECT_EQ(error.code, ErrorCode::kFormat);
  EXPECT_NE(error.message.find("'t0' is also in"), std::string::npos);
}

TEST_F(CheckpointTest, TensorThatTheIndexPromisesMustBeThere) {
  const std::vector<std::string> paths{shard("a", {5}, "a"), shard("b", {7}, "b")};
  for (const char* name : {"missing", "b0"}) {  // nowhere, and in the other shard
    const auto error = refusal(paths, Checkpoint::WeightMap{{"a0", 0}, {name, 0}});
    EXPECT_EQ(error.code, ErrorCode::kFormat);
    EXPECT_EQ(error.source, paths[0]);
    EXPECT_NE(error.message.find("'" + std::string(name) + "'"), std::string::npos);
  }
}

TEST_F(CheckpointTest, FirstErrorInTheOrderOfThePathsIsTold) {
  std::vector<std::string> paths;
  for (int i = 0; i < 40; ++i) paths.push_back(shard("s" + std::to_string(i), {16}, "t" + std::to_string(i) + "."));
  const auto missing = folder_ / "missing";
  const auto broken = written("broken", "not safetensors at all");
  const auto folder = std::string("/");
  paths.insert(paths.begin() + 30, missing);
  paths.insert(paths.begin() + 20, broken);
  paths.insert(paths.begin() + 35, folder);
  for (int round = 0; round < 5; ++round) {
    const auto error = refusal(paths);
    EXPECT_EQ(error.code, ErrorCode::kFormat);
    EXPECT_EQ(error.source, broken);
  }
  std::swap(paths[20], paths[31]);
  EXPECT_EQ(refusal(paths).code, ErrorCode::kNotFound);
}

TEST_F(CheckpointTest, ErrorsGiveEveryDescriptorBack) {
  const auto before = testing::count_descriptors();
  static_cast<void>(refusal({shard("a", {5}, "a"), written("b", "junk"), folder_ / "missing"}));
  EXPECT_EQ(testing::count_descriptors(), before);
}

TEST_F(CheckpointTest, ParkingClosesTheDescriptors) {
  const auto before = testing::count_descriptors();
  const auto checkpoint = opened({shard("a", {5}, "a"), shard("b", {5}, "b")});
  EXPECT_EQ(testing::count_descriptors(), before + 2);
  checkpoint->park();
  EXPECT_EQ(testing::count_descriptors(), before);
  EXPECT_TRUE(checkpoint->sources()->local(0)->handle().ok());  // opened again when needed
}

}  // namespace
}  // namespace weightstream
