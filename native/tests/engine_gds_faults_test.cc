// The k-th call of each function that a stream by GPUDirect Storage makes fails, for k = 1, 2, ... until a clean run,
// and files change under it. Every time: right bytes or a typed error in bounded time that says where, nothing left,
// and the next stream works.
#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <string>

#include "fault_injecting_reader.h"
#include "gds_stream_harness.h"

namespace weightstream {
namespace {

using testing::Fault;
using testing::FaultPlan;
using testing::GdsStreamTest;
using testing::kKiB;
using testing::kMiB;

constexpr int kOutOfMemory = 2;
constexpr int kIllegalAddress = 700;

class EngineGdsFaults : public GdsStreamTest {
 protected:
  void SetUp() override {
    GdsStreamTest::SetUp();
    fake.set_timing(10, 0, 10);
    checkpoint_ = testing::make_checkpoint(folder_, {{kMiB, 600, 5000, 2 * kMiB + 7}, {70'000, 400 * kKiB}});
    // What is set up once is there from now on: the thread of the slots, too, that what falls back goes through.
    EXPECT_EQ(run(options_for_device(2, 3 * kMiB)), std::nullopt);
    EXPECT_EQ(run(), std::nullopt);
    threads_ = testing::count_threads();
    descriptors_ = testing::count_descriptors();
  }

  std::optional<Error> run() { return run(options_for_gds(3 * kMiB)); }
  std::optional<Error> run(const StreamOptions& options) {
    fell_back_ = false;
    auto stream = start_stream(options);
    if (!stream) return std::move(stream).error();
    const auto consumed = consume_on_device(**stream, {.at_a_time = kMiB, .kernel_us = 20});
    for (const auto& [source, reason] : (*stream)->reasons()) {
      fell_back_ = fell_back_ || reason.starts_with("gds was asked for, but ");
    }
    (*stream)->close();
    EXPECT_EQ(fake.counts().cufile_files, 0U);
    checkpoint_.checkpoint->park();
    if (consumed.error) return consumed.error;
    EXPECT_TRUE(consumed.ended);
    EXPECT_EQ(consumed.order.size(), checkpoint_.items.size());
    return std::nullopt;
  }

  void expect_nothing_left_behind() {
    free_memory();
    EXPECT_STREQ(fake.violation(), "");
    EXPECT_TRUE(testing::eventually([&] { return testing::count_threads() <= threads_; }));
    EXPECT_LE(testing::count_descriptors(), descriptors_);
  }

  // Fails every call of `function` in turn; `check` looks at the error, if there is one. Returns how often it happened.
  template <typename Check>
  std::uint32_t fail_every_call(const char* function, int status, Check check) {
    for (std::uint32_t k = 1;; ++k) {
      SCOPED_TRACE(std::string(function) + " call " + std::to_string(k) + " with " + std::to_string(status));
      watchdog_.begin(std::string(function) + " call " + std::to_string(k));
      const auto before = fake.calls(function);
      fake.fail(function, k, status, 0);
      const auto error = run();
      const bool happened = fake.calls(function) >= before + k;
      fake.fail("", 0, 0, 0);
      expect_nothing_left_behind();
      if (!happened) {
        EXPECT_FALSE(error.has_value()) << error->message;
        return k - 1;
      }
      check(error);
      EXPECT_TRUE(k % 4 != 1 || run() == std::nullopt) << "the next one works";
      if (k > 400) {
        ADD_FAILURE() << "no run is ever clean";
        return k;
      }
    }
  }
  void expect_names_a_place(const Error& error) {
    EXPECT_TRUE(error.source == checkpoint_.files[0].path || error.source == checkpoint_.files[1].path) << error.source;
    EXPECT_TRUE(error.range.has_value());
  }

  // With a driver that has forgotten everything.
  void begin_anew() {
    free_memory();
    slots_.reset();
    device_.reset();
    fake.reset(1);
    fake.set_timing(10, 0, 10);
    device_ = Accelerator::open(open_driver(), 1).value();
    slots_ = SlotPool::create({.idle_time = std::chrono::hours(1)});
    current_ = reinterpret_cast<ForeignStream>(fake.foreign_stream(1, 1));
    open_cufile();
  }

  std::size_t threads_ = 0;
  std::size_t descriptors_ = 0;
  bool fell_back_ = false;
};

INSTANTIATE_TEST_SUITE_P(Vendors, EngineGdsFaults, ::testing::Values(Vendor::kCuda), testing::vendor_text);

TEST_P(EngineGdsFaults, FailTheKthReadWithErrno) {
  EXPECT_GT(fail_every_call("cuFileRead", EIO,
                            [&](const std::optional<Error>& error) {
                              ASSERT_TRUE(error.has_value());
                              EXPECT_EQ(error->code, ErrorCode::kStorage);
                              EXPECT_EQ(error->system_errno, EIO);
                              EXPECT_NE(error->message.find("cuFileRead"), std::string::npos) << error->message;
                              expect_names_a_place(*error);
                            }),
            3U);
}

TEST_P(EngineGdsFaults, FailTheKthReadWithAStatus) {
  EXPECT_GT(fail_every_call("cuFileRead", 5009,
                            [&](const std::optional<Error>& error) {
                              ASSERT_TRUE(error.has_value());
                              EXPECT_EQ(error->code, ErrorCode::kDevice);
                              for (const char* part : {"cuda:1", "CU_FILE_DEVICE_NOT_SUPPORTED (5009)", "auto"}) {
                                EXPECT_NE(error->message.find(part), std::string::npos) << error->message;
                              }
                              expect_names_a_place(*error);
                            }),
            3U);
}

TEST_P(EngineGdsFaults, InterruptTheKthRead) {
  EXPECT_GT(
      fail_every_call("cuFileRead", EINTR, [&](const std::optional<Error>& error) { EXPECT_FALSE(error.has_value()); }),
      3U);
}

// Twice a file: by the probe, which has something else read it, and by the reader.
TEST_P(EngineGdsFaults, RefuseTheKthRegistration) {
  std::uint32_t failed = 0;
  const auto happened = fail_every_call("cuFileHandleRegister", 5030, [&](const std::optional<Error>& error) {
    if (!error) {
      EXPECT_TRUE(fell_back_);
      return;
    }
    ++failed;
    EXPECT_EQ(error->code, ErrorCode::kDevice);
    EXPECT_NE(error->message.find("CU_FILE_INTERNAL_ERROR"), std::string::npos) << error->message;
    expect_names_a_place(*error);
  });
  EXPECT_EQ(happened, 4U);
  EXPECT_EQ(failed, 2U);
}

TEST_P(EngineGdsFaults, FailTheKthCallOfTheDriver) {
  for (const char* function :
       {"cuStreamCreateWithPriority", "cuEventCreate", "cuEventRecord", "cuEventQuery", "cuCtxPushCurrent_v2"}) {
    // Where the device is made current to end something, what was to end stays.
    const bool may_leave = std::string(function) == "cuCtxPushCurrent_v2";
    EXPECT_GT(fail_every_call(function, kOutOfMemory,
                              [&](const std::optional<Error>& error) {
                                if (!error) return;
                                EXPECT_EQ(error->code, ErrorCode::kDevice) << error->message;
                                EXPECT_NE(error->message.find(function), std::string::npos) << error->message;
                              }),
              0U);
    if (may_leave) begin_anew();
  }
}

TEST_P(EngineGdsFaults, LoseTheDeviceInTheKthRead) {
  for (std::uint32_t k = 1;; ++k) {
    SCOPED_TRACE("read " + std::to_string(k));
    watchdog_.begin("losing it in read " + std::to_string(k));
    fake.fail("cuFileRead", k, kIllegalAddress, 1);
    const auto error = run();
    const bool happened = fake.calls("cuFileRead") >= k;
    fake.fail("", 0, 0, 0);
    if (!error) {
      EXPECT_FALSE(happened);
      EXPECT_GT(k, 3U);
      break;
    }
    EXPECT_EQ(error->code, ErrorCode::kDevice) << error->message;
    begin_anew();  // a context that is lost stays so
  }
}

TEST_P(EngineGdsFaults, FailTheKthOperationOfTheReader) {
  for (const auto fault :
       {Fault::kIoError, Fault::kSourceChanged, Fault::kDelayed, Fault::kReversed, Fault::kNoStart}) {
    for (std::uint64_t at = 1;; ++at) {
      SCOPED_TRACE(std::string(testing::name(fault)) + " at " + std::to_string(at));
      watchdog_.begin(std::string(testing::name(fault)) + " at " + std::to_string(at));
      const auto plan = std::make_shared<FaultPlan>();
      plan->fault = fault;
      plan->at = at;
      auto options = options_for_gds(3 * kMiB);
      options.make_reader = testing::with_faults(plan);
      const auto error = run(options);
      EXPECT_EQ(error.has_value(), plan->happened && testing::fails(fault));
      expect_nothing_left_behind();
      if (!plan->happened) break;
      ASSERT_LT(at, 100U);
    }
  }
}

TEST_P(EngineGdsFaults, TruncatedOrRewrittenWhileLoading) {
  const auto shorten = [](const std::string& path) { std::filesystem::resize_file(path, 600 * kKiB + 77); };
  const auto rewrite = [](const std::string& path) { testing::touch(path); };
  bool truncated = false;
  bool changed = false;
  for (std::size_t after = 0; after < 3; ++after) {
    for (const bool shortens : {true, false}) {
      const auto change = [&] { shortens ? shorten(checkpoint_.files[0].path) : rewrite(checkpoint_.files[0].path); };
      checkpoint_ = testing::make_checkpoint(folder_, {{500 * kKiB, 5, 800 * kKiB, 900 * kKiB, 3 * kMiB}});
      auto stream = start_stream(options_for_gds(kMiB));
      ASSERT_TRUE(stream.ok());
      std::size_t taken = 0;
      if (after == 0) change();
      const auto consumed = consume_on_device(**stream, {.at_a_time = kMiB, .with = [&](std::uint32_t) {
                                                           if (++taken == after) change();
                                                           return true;
                                                         }});
      (*stream)->close();
      free_memory();
      ASSERT_TRUE(consumed.error.has_value());
      EXPECT_EQ(consumed.error->source, checkpoint_.files[0].path);
      truncated = truncated || consumed.error->code == ErrorCode::kTruncated;
      changed = changed || consumed.error->code == ErrorCode::kSourceChanged;
      EXPECT_TRUE(consumed.error->code == ErrorCode::kSourceChanged ||
                  (shortens && consumed.error->code == ErrorCode::kTruncated))
          << consumed.error->message;
      if (consumed.error->code == ErrorCode::kTruncated) {
        EXPECT_TRUE(consumed.error->range.has_value());
      }
    }
  }
  EXPECT_TRUE(truncated);
  EXPECT_TRUE(changed);
}

TEST_P(EngineGdsFaults, FileThatTookThePlaceOfAnotherIsRefused) {
  checkpoint_.checkpoint->park();
  const auto& path = checkpoint_.files[1].path;
  testing::write_pattern_file(folder_ / "new", std::filesystem::file_size(path), 9);
  std::filesystem::rename(folder_ / "new", path);
  const auto error = run();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kSourceChanged) << error->message;
  EXPECT_EQ(error->source, path);
}

}  // namespace
}  // namespace weightstream
