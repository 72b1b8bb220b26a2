#include "fault_injecting_reader.h"

#include <cerrno>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "storage/local_file.h"

namespace weightstream::testing {
namespace {

constexpr std::size_t kTurnedAround = 4;

class FaultInjectingReader final : public Reader, private ReadFeed {
 public:
  FaultInjectingReader(std::shared_ptr<FaultPlan> plan, std::unique_ptr<Reader> inner)
      : plan_(std::move(plan)), inner_(std::move(inner)) {}

  Status start(ReadFeed& feed) override {
    feed_ = &feed;
    if (plan_->fault == Fault::kNoStart && ++plan_->starts == plan_->at) {
      plan_->happened = true;
      return Error{.code = ErrorCode::kStorage, .message = "cannot start (injected)", .system_errno = EAGAIN};
    }
    return inner_->start(*this);
  }
  void wake() override { inner_->wake(); }
  void stop() override {
    inner_->stop();
    report_held(true);
  }

 private:
  struct Report {
    ReadRequest request;
    Result<ReadEffort> result;
  };

  std::optional<ReadRequest> pull() override {
    auto request = feed_->pull();
    if (request) {
      const std::lock_guard lock(mutex_);
      ++outstanding_;
    } else {
      report_held(false);  // nothing new: what is held back may be what everybody waits for
    }
    return request;
  }

  void complete(const ReadRequest& request, Result<ReadEffort> result) override {
    const std::uint64_t number = ++plan_->completions;
    if (number == plan_->at && fails(plan_->fault) && plan_->fault != Fault::kNoStart) {
      plan_->happened = true;
      result = spoiled(request);
    }
    const bool hold = (plan_->fault == Fault::kDelayed && number == plan_->at) ||
                      (plan_->fault == Fault::kReversed && number >= plan_->at);
    bool ask_again = false;
    bool full = false;
    if (hold) {
      const std::lock_guard lock(mutex_);
      plan_->happened = true;
      held_.push_back({request, std::move(result)});
      full = plan_->fault == Fault::kReversed && held_.size() >= kTurnedAround;
    } else {
      feed_->complete(request, std::move(result));
      const std::lock_guard lock(mutex_);
      --outstanding_;
    }
    if (full) return report_held(true);
    {
      const std::lock_guard lock(mutex_);
      ask_again = !held_.empty() && outstanding_ == held_.size();
    }
    // The reader pulls after a wake. If there is nothing to pull either, pull() reports what is held.
    if (ask_again) inner_->wake();
  }

  void report_held(bool always) {
    std::vector<Report> reports;
    {
      const std::lock_guard lock(mutex_);
      if (!always && outstanding_ != held_.size()) return;
      reports.swap(held_);
      outstanding_ -= reports.size();
    }
    for (auto report = reports.rbegin(); report != reports.rend(); ++report) {
      feed_->complete(report->request, std::move(report->result));
    }
  }

  [[nodiscard]] Error spoiled(const ReadRequest& request) const {
    const auto& file = static_cast<const LocalFile&>(*request.source);
    if (plan_->fault == Fault::kIoError) return file.read_error(EIO, request.range());
    if (plan_->fault == Fault::kTruncated) return file.truncated(request.range(), request.offset);
    return {.code = ErrorCode::kSourceChanged, .message = "changed (injected)", .source = file.name()};
  }

  std::shared_ptr<FaultPlan> plan_;
  std::unique_ptr<Reader> inner_;
  ReadFeed* feed_ = nullptr;
  std::mutex mutex_;
  std::size_t outstanding_ = 0;  // pulled, and not reported to the stream yet
  std::vector<Report> held_;
};

}  // namespace

const char* name(Fault fault) {
  switch (fault) {
    case Fault::kNone:
      return "none";
    case Fault::kIoError:
      return "EIO";
    case Fault::kTruncated:
      return "truncated";
    case Fault::kSourceChanged:
      return "source changed";
    case Fault::kDelayed:
      return "delayed";
    case Fault::kReversed:
      return "reversed";
    case Fault::kNoStart:
      return "no start";
  }
  return "";
}

ReaderFactory with_faults(std::shared_ptr<FaultPlan> plan, ReaderFactory inner) {
  return [plan = std::move(plan), inner = std::move(inner)](ReaderKind kind, const ReaderContext& context) {
    return std::make_unique<FaultInjectingReader>(plan, inner(kind, context));
  };
}

}  // namespace weightstream::testing
