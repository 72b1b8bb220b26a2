// Streams by GPUDirect Storage: right bytes in every order and under every limit, into memory that nothing uses any
// more, without slots or copies; and when it cannot be, what is done in its place and what is said.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <thread>

#include "gds_stream_harness.h"

namespace weightstream {
namespace {

using testing::Consumed;
using testing::GdsStreamTest;
using testing::kMiB;

bool has(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

class EngineGds : public GdsStreamTest {
 protected:
  void expect_all(const Consumed& consumed) {
    EXPECT_TRUE(consumed.ended) << (consumed.error ? consumed.error->message : "not ended");
    const std::set<std::uint32_t> seen(consumed.order.begin(), consumed.order.end());
    EXPECT_EQ(seen.size(), checkpoint_.items.size());
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
  }
  [[nodiscard]] static std::uint64_t bytes_by(const Stream& stream, ReaderKind kind) {
    return stream.stats().bytes_by_reader[static_cast<std::size_t>(kind)];
  }
  // A whole stream, which does without it: the reason that each source has.
  void expect_fallback(const StreamOptions& options, const std::string& why) {
    auto stream = start_stream(options);
    ASSERT_TRUE(stream.ok()) << stream.error().message;
    expect_all(consume_on_device(**stream));
    EXPECT_EQ(bytes_by(**stream, ReaderKind::kGds), 0U);
    EXPECT_EQ(fake.counts().cufile_reads, 0U);
    for (const auto& [source, reason] : (*stream)->reasons()) {
      EXPECT_TRUE(reason.starts_with("gds was asked for, but ")) << reason;
      EXPECT_TRUE(has(reason, why)) << reason;
      EXPECT_TRUE(has(reason, "pread") || has(reason, "io_uring")) << reason;
    }
    const auto said = (*stream)->drain_log();
    EXPECT_EQ(std::count_if(said.begin(), said.end(),
                            [&](const LogLine& line) {
                              return line.level == LogLevel::kWarning && has(line.text, "gds was asked for, but ") &&
                                     has(line.text, why);
                            }),
              1)
        << "once, for all files";
  }
};

INSTANTIATE_TEST_SUITE_P(Vendors, EngineGds, ::testing::Values(Vendor::kCuda), testing::vendor_text);

TEST_P(EngineGds, HandsOutEveryByteUnderEveryLimitInEveryOrder) {
  for (const bool file_order : {false, true}) {
    for (const std::uint64_t limit : {std::uint64_t{1}, kMiB, 6 * kMiB, std::uint64_t{0}}) {
      SCOPED_TRACE("limit " + std::to_string(limit));
      watchdog_.begin("limit " + std::to_string(limit));
      auto options = options_for_gds(limit);
      options.file_order = file_order;
      auto stream = start_stream(options);
      ASSERT_TRUE(stream.ok()) << stream.error().message;
      const auto consumed = consume_on_device(**stream);
      expect_all(consumed);
      EXPECT_TRUE(!file_order || std::is_sorted(consumed.order.begin(), consumed.order.end()));
      const auto stats = (*stream)->stats();
      EXPECT_EQ(stats.bytes, stats.bytes_total);
      EXPECT_EQ(stats.bytes_read, stats.bytes_total) << "what belongs to no item is not read";
      EXPECT_EQ(bytes_by(**stream, ReaderKind::kGds), stats.bytes_total);
      EXPECT_EQ(stats.peak_host_bytes, 0U);
      const std::uint64_t floor = 5 * kMiB + 1 + 700 * testing::kKiB + 2 * kMiB + kMiB;
      std::uint64_t all = 0;  // small items that share an allocation are apart in it
      for (const auto& group : (*stream)->device_groups()->groups) all += group.bytes;
      EXPECT_LE(stats.peak_device_bytes, limit == 0 ? all : std::max(limit, floor));
    }
  }
}

TEST_P(EngineGds, TakesNoSlotAndCopiesNothing) {
  auto options = options_for_gds();
  options.memory_limit = 1;  // of slots, which a copy would need
  auto stream = start_stream(options);
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  expect_all(consume_on_device(**stream));
  EXPECT_EQ(fake.counts().copies, 0U);
  EXPECT_EQ(fake.counts().registered_bytes, 0U);
  EXPECT_EQ(fake.counts().cufile_bytes, (*stream)->stats().bytes_total);
  // One for each large item, read and run of small ones, and not one for each of 200.
  EXPECT_LT(fake.counts().cufile_reads, 40U);
  for (const auto& [source, reason] : (*stream)->reasons()) {
    EXPECT_EQ(reason, "backend=\"gds\" was asked for: cuFile reads to cuda:1 by nvidia-fs 2.17");
  }
}

TEST_P(EngineGds, WritesNoMemoryThatQueuedKernelsUse) {
  for (const std::uint64_t limit : {2 * kMiB, std::uint64_t{0}}) {
    auto stream = start_stream(options_for_gds(limit));
    ASSERT_TRUE(stream.ok());
    expect_all(consume_on_device(**stream, {.at_a_time = kMiB, .kernel_us = 20'000}));
    EXPECT_STREQ(fake.violation(), "");
    EXPECT_GT((*stream)->stats().wait_device_seconds, 0) << "that was what it waited for";
  }
}

TEST_P(EngineGds, ClosesUnderKernelsThatItsReadsWaitFor) {
  auto stream = start_stream(options_for_gds());
  ASSERT_TRUE(stream.ok());
  ASSERT_TRUE(top_up(**stream, {.at_a_time = 64 * kMiB, .kernel_us = 1'500'000}));
  const auto begin = Stream::Clock::now();
  (*stream)->close();
  EXPECT_LT(Stream::Clock::now() - begin, std::chrono::milliseconds(1400));
  EXPECT_EQ(fake.counts().cufile_reads, 0U);
}

TEST_P(EngineGds, ResumesShortReads) {
  fake.set_cufile(100'001, 0, 2);
  auto stream = start_stream(options_for_gds());
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  EXPECT_GT((*stream)->stats().retries, 50U);
}

TEST_P(EngineGds, ReadsAsManyAtOnceAsItIsTold) {
  fake.set_cufile(UINT64_MAX, 3000, 2);
  for (const std::uint32_t concurrency : {1, 3}) {
    auto options = options_for_gds();
    options.concurrency = concurrency;
    auto stream = start_stream(options);
    ASSERT_TRUE(stream.ok());
    expect_all(consume_on_device(**stream, {.at_a_time = 64 * kMiB, .kernel_us = 0}));
    EXPECT_EQ(fake.counts().cufile_most_at_once, concurrency);
  }
}

TEST_P(EngineGds, ItemsWithMemoryOfTheirOwn) {
  auto options = options_for_gds(UINT64_MAX);
  options.device->packed = false;
  auto stream = start_stream(options);
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream, {.at_a_time = UINT64_MAX}));
}

TEST_P(EngineGds, LooksAtMoreFilesThanItKeepsRegistered) {
  checkpoint_ = testing::make_checkpoint(folder_, std::vector<std::vector<std::uint64_t>>(50, {70'000, 5, 300'000}));
  const auto descriptors = testing::count_descriptors();
  auto options = options_for_gds();
  options.concurrency = 4;
  auto stream = start_stream(options);
  ASSERT_TRUE(stream.ok());
  std::uint64_t most = 0;
  expect_all(consume_on_device(**stream, {.with = [&](std::uint32_t) {
    most = std::max(most, fake.counts().cufile_files);
    return true;
  }}));
  EXPECT_GT(most, 1U);
  EXPECT_LE(most, 16U + 4U) << "those that are kept, and those that reads are under way of";
  (*stream)->close();
  EXPECT_EQ(fake.counts().cufile_files, 0U);
  EXPECT_LE(testing::count_descriptors(), descriptors);
}

TEST_P(EngineGds, ReadsOfAClosedStreamEndBeforeItsMemoryGoes) {
  fake.set_cufile(50'000, 500, 2);
  for (std::size_t stop_at : {0, 1, 2, 7, 150}) {
    auto stream = start_stream(options_for_gds(6 * kMiB));
    ASSERT_TRUE(stream.ok());
    std::size_t taken = 0;
    if (stop_at > 0) {
      consume_on_device(**stream, {.with = [&](std::uint32_t) { return ++taken < stop_at; }});
    } else {
      top_up(**stream, {});
    }
    (*stream)->close();
    free_memory();
    EXPECT_EQ(fake.counts().cufile_files, 0U);
    EXPECT_STREQ(fake.violation(), "");
  }
}

TEST_P(EngineGds, TwoStreamsOfOneCheckpointRegisterItsFilesEach) {
  auto first = start(checkpoint_, options_for_gds());
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(top_up(**first, {}));
  std::vector<std::uint64_t> memory;
  memory.swap(memory_);
  auto second = start_stream(options_for_gds());
  ASSERT_TRUE(second.ok()) << second.error().message;
  expect_all(consume_on_device(**second));
  (*first)->close();
  for (const auto address : memory) fake.free(address);
}

TEST_P(EngineGds, FileThatIsUnlinkedIsReadToItsEnd) {
  auto stream = start_stream(options_for_gds(kMiB));
  ASSERT_TRUE(stream.ok());
  bool unlinked = false;
  expect_all(consume_on_device(**stream, {.with = [&](std::uint32_t) {
    if (!unlinked) std::remove(checkpoint_.files[0].path.c_str());
    unlinked = true;
    return true;
  }}));
}

TEST_P(EngineGds, CompatibilityModeIsSaid) {
  fake.set_cufile(UINT64_MAX, 0, 0);
  auto options = options_for_gds();
  options.device->cufile = [this] { return CuFile::open(fake.path); };
  auto stream = start_stream(options);
  ASSERT_TRUE(stream.ok());
  expect_all(consume_on_device(**stream));
  EXPECT_EQ(bytes_by(**stream, ReaderKind::kGds), (*stream)->stats().bytes_total);
  EXPECT_TRUE(has((*stream)->reasons()[0].second, "compatibility mode, through host memory"));
  const auto said = (*stream)->drain_log();
  EXPECT_EQ(std::count_if(said.begin(), said.end(),
                          [](const LogLine& line) {
                            return line.level == LogLevel::kInfo && has(line.text, "compatibility mode");
                          }),
            1);
}

TEST_P(EngineGds, FallsBackWithoutALibrary) {
  auto options = options_for_gds();
  options.device->cufile = [] { return CuFile::open("/nowhere/libcufile.so.0"); };
  expect_fallback(options, "/nowhere/libcufile.so.0");
}

TEST_P(EngineGds, FallsBackWhereItDoesNotStart) {
  auto options = options_for_gds();
  options.device->cufile = [this] {
    fake.fail("cuFileDriverOpen", 1, 5007, 0);
    return CuFile::open(fake.path);
  };
  expect_fallback(options, "CU_FILE_PLATFORM_NOT_SUPPORTED");
  EXPECT_EQ(fake.calls("cuFileDriverOpen"), 2U) << "what holds for all files is found out once";
}

TEST_P(EngineGds, FallsBackForOneFileThatIsRefused) {
  fake.fail("cuFileHandleRegister", 2, 5008, 0);
  auto stream = start_stream(options_for_gds());
  ASSERT_TRUE(stream.ok()) << stream.error().message;
  expect_all(consume_on_device(**stream, {.at_a_time = 2 * kMiB, .kernel_us = 500}));
  const auto& reasons = (*stream)->reasons();
  ASSERT_EQ(reasons.size(), 2U);
  EXPECT_TRUE(has(reasons[0].second, "cuFile reads to cuda:1")) << reasons[0].second;
  EXPECT_TRUE(
      has(reasons[1].second, "gds was asked for, but cuFileHandleRegister failed with CU_FILE_IO_NOT_SUPPORTED"))
      << reasons[1].second;
  EXPECT_GT(bytes_by(**stream, ReaderKind::kGds), 9 * kMiB);
  EXPECT_GT(fake.counts().copies, 0U) << "the other file goes through slots";
}

// Copies of one file, pinned or not, and reads of the other wait for the same kernels, each in its own way: what the
// one has done about it must not pass for the other's.
TEST_P(EngineGds, ReadsBesideCopiesThatWaitForTheSameKernels) {
  for (const bool pinned : {true, false}) {
    for (const std::uint32_t refused : {1, 2}) {
      SCOPED_TRACE(std::string(pinned ? "pinned" : "pageable") + ", without file " + std::to_string(refused));
      slots_->release_idle();
      fake.set_register_limit(pinned ? UINT64_MAX : 0);
      fake.fail("cuFileHandleRegister", refused, 5008, 0);
      auto options = options_for_gds();
      options.memory_limit = 32 * Slot::kBytes;  // all of it is read before the kernels end
      auto stream = start_stream(options);
      ASSERT_TRUE(stream.ok()) << stream.error().message;
      expect_all(consume_on_device(**stream, {.at_a_time = 64 * kMiB, .kernel_us = 4000}));
      EXPECT_STREQ(fake.violation(), "");
      EXPECT_GT(bytes_by(**stream, ReaderKind::kGds), 0U);
      EXPECT_EQ(fake.counts().pageable_copies > 0, !pinned);
    }
  }
}

TEST_P(EngineGds, PathThatIsNotAbsoluteIsAnError) {
  auto options = options_for_gds();
  options.device->cufile = [] { return CuFile::open("libcufile.so.0"); };
  const auto stream = start(checkpoint_, options);
  ASSERT_FALSE(stream.ok());
  EXPECT_EQ(stream.error().code, ErrorCode::kConfig);
}

TEST_P(EngineGds, SingleReadsAndHostMemoryGoAnotherWay) {
  auto options = options_for_gds();
  auto one = start(checkpoint_, options, std::vector{checkpoint_.items[2]});
  ASSERT_TRUE(one.ok());
  EXPECT_EQ((*one)->device_groups(), nullptr);
  EXPECT_TRUE((*one)->reasons()[0].second.starts_with(
      "gds was asked for, but a single read lands in host memory: a single read on"))
      << (*one)->reasons()[0].second;
  options.device.reset();
  auto host = start(checkpoint_, options);
  ASSERT_TRUE(host.ok());
  const auto consumed = testing::consume(**host, checkpoint_, checkpoint_.items);
  EXPECT_TRUE(consumed.ended);
  EXPECT_TRUE((*host)->reasons()[0].second.starts_with("gds was asked for, but these reads land in host memory: "))
      << (*host)->reasons()[0].second;
  EXPECT_EQ(fake.calls("cuFileRead"), 0U);
}

TEST_P(EngineGds, AnswersAForkedChildWithoutTouchingIt) {
  fake.set_cufile(UINT64_MAX, 2000, 2);
  auto stream = start_stream(options_for_gds(kMiB));
  ASSERT_TRUE(stream.ok());
  top_up(**stream, {});
  const int result = testing::in_child([&] {
    std::vector<ReadyItem> batch;
    const auto next = (*stream)->next(batch, {});
    const bool right = !next.ok() && next.error().code == ErrorCode::kClosed;
    stream->reset();
    return right ? 0 : 1;
  });
  EXPECT_EQ(result, 0);
  expect_all(consume_on_device(**stream));
}

// Of HIP, where there is no cuFile.
class EngineGdsOfHip : public EngineGds {};
INSTANTIATE_TEST_SUITE_P(Vendors, EngineGdsOfHip, ::testing::Values(Vendor::kHip), testing::vendor_text);

TEST_P(EngineGdsOfHip, FallsBack) {
  auto options = options_for_device();
  options.backend = Backend::kGds;
  expect_fallback(options, "cuda:1 is a device of HIP");
}

}  // namespace
}  // namespace weightstream
