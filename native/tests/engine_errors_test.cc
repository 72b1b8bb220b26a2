// What a consumer is given when a read fails: all that was complete before, and then the error.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <vector>

#include "engine/stream.h"
#include "process_state.h"
#include "stream_harness.h"

namespace weightstream::testing {
namespace {

// Pulls all that it is given, and reports it when the test says so.
class HeldReader final : public Reader {
 public:
  explicit HeldReader(std::vector<ReadRequest>& requests) : requests_(requests) {}
  Status start(ReadFeed& feed) override {
    feed_ = &feed;
    while (const auto request = feed.pull()) requests_.push_back(*request);
    return Ok{};
  }
  void wake() override {}
  void stop() override {
    while (!requests_.empty()) report(requests_.size() - 1, Error{.code = ErrorCode::kClosed, .message = "stopped"});
  }

  // Reports the request at `position`, filled unless it is to fail.
  void report(std::size_t position, std::optional<Error> error = std::nullopt) {
    const auto request = requests_[position];
    requests_.erase(requests_.begin() + static_cast<std::ptrdiff_t>(position));
    if (error) {
      feed_->complete(request, std::move(*error));
    } else {
      fill_pattern({request.into, request.wanted}, 1, request.offset);
      feed_->complete(request, ReadEffort{});
    }
  }

 private:
  ReadFeed* feed_ = nullptr;
  std::vector<ReadRequest>& requests_;
};

class StreamErrors : public ::testing::Test {
 protected:
  std::unique_ptr<Stream> started(bool file_order) {
    StreamOptions options;
    options.backend = Backend::kPread;
    options.memory_limit = 256 * kMiB;
    options.file_order = file_order;
    options.make_reader = [this](ReaderKind, const ReaderContext&) {
      auto reader = std::make_unique<HeldReader>(requests_);
      reader_ = reader.get();
      return reader;
    };
    auto stream = start(made_, options);
    EXPECT_TRUE(stream.ok()) << stream.error().message;
    return std::move(stream).value();
  }
  // Position of the request that covers a byte in the middle of an item.
  std::size_t request_inside(std::size_t item) const {
    const auto range = made_.items[item].range;
    const auto middle = range.begin + range.size() / 2;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i].offset <= middle && middle < requests_[i].offset + requests_[i].length) return i;
    }
    ADD_FAILURE() << "no request covers item " << item;
    return 0;
  }
  // Reports all requests but those in the middle of two items.
  void report_all_but(std::size_t one, std::size_t other) {
    std::size_t i = 0;
    while (i < requests_.size()) {
      if (i == request_inside(one) || i == request_inside(other)) {
        ++i;
      } else {
        reader_->report(i);
      }
    }
    ASSERT_EQ(requests_.size(), 2U) << "reads are small enough to lie inside of an item";
  }

  Watchdog watchdog_;
  TempDir folder_;
  TestCheckpoint made_ = make_checkpoint(folder_, {std::vector<std::uint64_t>(6, 4 * kMiB)});
  std::vector<ReadRequest> requests_;  // pulled and not reported
  HeldReader* reader_ = nullptr;
};

TEST_F(StreamErrors, ComeAfterWhatWasReadyBeforeThem) {
  for (const bool file_order : {false, true}) {
    SCOPED_TRACE(file_order ? "file order" : "arrival");
    const auto stream = started(file_order);
    report_all_but(3, 5);
    reader_->report(request_inside(3), Error{.code = ErrorCode::kStorage, .message = "the third is gone"});
    reader_->report(request_inside(5));  // complete now, but after the error
    const auto consumed = consume(*stream, made_, made_.items);
    EXPECT_EQ(consumed.order,
              file_order ? std::vector<std::uint32_t>({0, 1, 2}) : std::vector<std::uint32_t>({0, 1, 2, 4}));
    ASSERT_TRUE(consumed.error.has_value());
    EXPECT_EQ(consumed.error->message, "the third is gone");
    std::vector<ReadyItem> batch;
    for (int call = 0; call < 2; ++call) {
      const auto again = stream->next(batch, {});
      ASSERT_FALSE(again.ok()) << "the error stays";
      EXPECT_EQ(again.error().message, "the third is gone");
      EXPECT_TRUE(batch.empty());
    }
  }
}

TEST_F(StreamErrors, DoNotWaitForReadsThatAreUnderWay) {
  const auto stream = started(false);
  report_all_but(0, 5);
  reader_->report(request_inside(0), Error{.code = ErrorCode::kStorage, .message = "gone"});
  const auto consumed = consume(*stream, made_, made_.items);
  EXPECT_EQ(consumed.order, std::vector<std::uint32_t>({1, 2, 3, 4}));
  ASSERT_TRUE(consumed.error.has_value());
  EXPECT_EQ(consumed.error->message, "gone");
  EXPECT_EQ(stream->stats().wait_storage_seconds, 0.0);
}

TEST_F(StreamErrors, NothingIsHandedOutAfterClose) {
  const auto stream = started(false);
  report_all_but(2, 3);
  reader_->report(request_inside(2), Error{.code = ErrorCode::kStorage, .message = "gone"});
  stream->close();
  std::vector<ReadyItem> batch;
  const auto next = stream->next(batch, {});
  ASSERT_FALSE(next.ok());
  EXPECT_EQ(next.error().code, ErrorCode::kClosed);
}

}  // namespace
}  // namespace weightstream::testing
