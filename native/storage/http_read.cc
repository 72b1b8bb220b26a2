#include "storage/http_read.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <random>
#include <utility>

namespace weightstream {
namespace {

using std::chrono::duration_cast;

constexpr auto kLookAgain = std::chrono::milliseconds(20);
constexpr double kRenewAhead = 60;      // seconds before the end of the access at which new access is asked for
constexpr double kUnusable = 5;         // seconds before it at which no request is begun with it any more
constexpr double kLongestRenewal = 60;  // seconds
// What is renewed and still ends soon, lives no longer (or a clock is wrong): it is used, not asked for again and
// again.
constexpr double kBetweenRenewals = 10;  // seconds
constexpr double kAtLeast = 1;           // seconds, where it has ended
// Where attempts are watched for time limits, at least this often.
constexpr auto kWatchEvery = std::chrono::milliseconds(250);

HttpRead::Clock::duration to_duration(double seconds) {
  return duration_cast<HttpRead::Clock::duration>(std::chrono::duration<double>(seconds));
}

double seconds_between(HttpRead::Clock::time_point begin, HttpRead::Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

// Waits of many readers must not end at the same moment.
double jittered(double seconds) {
  thread_local const int here = 0;
  thread_local std::minstd_rand random(static_cast<std::uint32_t>(HttpRead::Clock::now().time_since_epoch().count() ^
                                                                  reinterpret_cast<std::intptr_t>(&here)));
  return seconds * std::uniform_real_distribution<double>(0.5, 1.0)(random);
}

}  // namespace

HttpRead::HttpRead(const ReadRequest& request, Clock::time_point now)
    : request_(request), begun_(now), at_(request.offset), due_(now) {}

std::uint64_t HttpRead::end() const {
  const std::uint64_t end = request_.offset + request_.wanted;
  return object().size_known() ? std::min(end, object().size()) : end;
}

// When it has waited long enough for a host that nobody knows to be there. What once answered is worth more patience.
HttpRead::Clock::time_point HttpRead::end_of_silence() const {
  if (!asking_ || asking_->answered()) return Clock::time_point::max();
  return asking_since_ + to_duration(object().options().policy.first_answer_seconds);
}

Error HttpRead::silence() const {
  char seconds[32];
  std::snprintf(seconds, sizeof seconds, "%g", object().options().policy.first_answer_seconds);
  return {.code = ErrorCode::kTimeout,
          .message = "nothing came from " + asking_->origin() + " in " + seconds +
                     " s: check the endpoint, the network and its firewalls" +
                     (refusal_.message.empty() ? std::string() : "; last: " + refusal_.message)};
}

void HttpRead::give_up(Error error) { fail(std::move(error)); }

void HttpRead::give_up_without_memory() noexcept {
  Error error;  // its message fits into the string itself
  error.code = ErrorCode::kStorage;
  error.message = "out of memory";
  error.system_errno = ENOMEM;
  result_.emplace(std::move(error));
}

void HttpRead::fail(Error error) {
  if (error.source.empty()) error.source = object().name();
  error.range = ByteRange{request_.offset, end()};
  error.attempts = attempts_;
  if (error.code == ErrorCode::kTruncated) {
    error.expected = error.range->size();
    error.got = at_ - request_.offset;
  }
  result_.emplace(std::move(error));
}

bool HttpRead::wants_attempt(Clock::time_point now) {
  if (object().size_known() && at_ >= end()) {  // nothing is wanted
    result_.emplace(ReadEffort{});
    return false;
  }
  const auto deadline = begun_ + to_duration(object().options().policy.deadline);
  const auto silent_until = end_of_silence();
  due_ = std::min({due_, deadline, silent_until});
  if (now < due_) return false;
  if (now >= deadline) {
    fail({.code = ErrorCode::kTimeout,
          .message = "the deadline for one read passed" +
                     (refusal_.message.empty() ? std::string() : "; last: " + refusal_.message),
          .http_status = refusal_.http_status,
          .service_code = refusal_.service_code,
          .request_id = refusal_.request_id});
    return false;
  }
  if (now >= silent_until) {
    fail(silence());
    return false;
  }
  if (!renewing_) {
    const auto target = object().target();
    const bool unusable = object().expires_within(kUnusable);
    if (object().expires_within(kRenewAhead) && !object().renewed_within(unusable ? kAtLeast : kBetweenRenewals) &&
        object().ask_renewal(target.generation) && unusable) {
      renewing_ = target.generation;
      renewing_since_ = now;
      refused_ = false;
    }
  }
  if (renewing_) {
    const auto renewal = object().renewal(*renewing_);
    if (renewal == HttpObject::Renewal::kPending) {
      due_ = now + kLookAgain;
      if (seconds_between(renewing_since_, now) < kLongestRenewal) return false;
      fail({.code = ErrorCode::kTimeout, .message = "new credentials did not come within a minute"});
      return false;
    }
    if (renewal == HttpObject::Renewal::kFailed) {
      Error error = refused_ ? refusal_ : Error{.code = ErrorCode::kAuth, .message = "the credentials have ended"};
      error.message += "; new ones could not be had: " + object().renewal_failure();
      fail(std::move(error));
      return false;
    }
    renewing_.reset();
    if (refused_) renewed_ = true;
  }
  const auto quiet = object().host().quiet_until();
  if (quiet > now) {
    due_ = std::min(quiet + to_duration(jittered(0.05)), deadline);
    return false;
  }
  return true;
}

std::unique_ptr<HttpAttempt> HttpRead::make_attempt(std::uint64_t& arrived) {
  ++attempts_;
  const HttpAsked asked{&object(), {at_, end()}, !object().size_known()};
  const bool fresh = std::exchange(fresh_, false);
  const auto now = Clock::now();
  auto target = object().target();
  if (target.host != asking_) {
    asking_ = target.host;
    asking_since_ = now;
    refusal_ = {};
  }
  due_ = now + kWatchEvery;
  return std::make_unique<HttpAttempt>(this, asked, std::move(target), request_.into + (at_ - request_.offset), fresh,
                                       arrived);
}

std::unique_ptr<HttpAttempt> HttpRead::make_hedge(const HttpAttempt& main, std::uint64_t& arrived) {
  hedged_ = true;
  ++attempts_;
  const auto begin = main.asked().range.begin + main.received();
  return std::make_unique<HttpAttempt>(this, HttpAsked{&object(), {begin, end()}, false}, object().target(),
                                       request_.into + (begin - request_.offset), true, arrived);
}

std::optional<Verdict> HttpRead::check(HttpAttempt& attempt, Clock::time_point now) {
  due_ = std::max(due_, now + kWatchEvery);
  const HttpPolicy& policy = object().options().policy;
  const auto verdict = [&](std::string message) {
    return Verdict{Outcome::kRetry,
                   {.code = ErrorCode::kTimeout, .message = std::move(message), .http_status = attempt.head().status}};
  };
  if (seconds_between(begun_, now) > policy.deadline) {
    Verdict late = verdict("the deadline for one read passed");
    late.outcome = Outcome::kFail;
    return attempt.given_up(std::move(late));
  }
  if (now >= end_of_silence()) return Verdict{Outcome::kFail, silence()};
  if (!attempt.first_byte()) {
    if (seconds_between(attempt.begun(), now) < policy.first_byte_seconds + policy.connect_timeout) {
      return std::nullopt;
    }
    return attempt.given_up(verdict("the server did not answer in time"));
  }
  if (attempt.seconds_without(policy.stall_bytes, now) > policy.stall_seconds) {
    return attempt.given_up(verdict("the connection stalled: less than " + std::to_string(policy.stall_bytes) +
                                    " bytes in " + std::to_string(static_cast<int>(policy.stall_seconds)) + " s"));
  }
  return std::nullopt;
}

void HttpRead::credit(const HttpAttempt& attempt) {
  if (attempt.delivering()) at_ = std::max(at_, attempt.asked().range.begin + attempt.received());
}

double HttpRead::backoff() const {
  const HttpPolicy& policy = object().options().policy;
  const auto doublings = std::min(std::max(failures_, connect_failures_), 20U);
  const double wait = policy.backoff * static_cast<double>(1U << (doublings > 0 ? doublings - 1 : 0));
  return jittered(std::min(wait, policy.backoff_cap));
}

HttpRead::Consequence HttpRead::ended(HttpAttempt& attempt, Verdict verdict, bool alone, Clock::time_point now) {
  const HttpPolicy& policy = object().options().policy;
  credit(attempt);
  if (object().size_known() && at_ >= end() && verdict.outcome != Outcome::kFail) {
    result_.emplace(ReadEffort{.retries = attempts_ - 1});
    return {};
  }
  if (!alone && verdict.outcome != Outcome::kFail) return {};
  const bool resumable = object().resumable();
  if (!resumable) at_ = request_.offset;
  due_ = now;
  fresh_ = false;
  Error error = verdict.error;
  switch (verdict.outcome) {
    case Outcome::kRedirect:
      follow(attempt);
      return {};
    case Outcome::kFail:
      if (error.code == ErrorCode::kNotFound && attempt.target().redirected && !back_to_origin_) {
        back_to_origin_ = true;
        object().forget_redirect(attempt.target());
        return {.retried = true};
      }
      fail(std::move(error));
      return {};
    case Outcome::kRenew:
      renew(attempt, std::move(error), now);
      return {.retried = true};
    case Outcome::kBody:  // the response was complete, and yet the range is not: cannot be, but must not loop
      error = {.code = ErrorCode::kTruncated, .message = "the connection ended before the range did"};
      break;
    case Outcome::kConnect:
      if (++connect_failures_ >= policy.connect_attempts) {
        fail(std::move(error));
        return {};
      }
      break;
    case Outcome::kRetry:
    case Outcome::kThrottle:
      connect_failures_ = 0;
      break;
  }
  // What has to be received again was worth nothing.
  failures_ = resumable && attempt.received() >= kWorthwhileBytes ? 0 : failures_ + 1;
  refusal_ = error;
  if (failures_ >= policy.max_attempts) {
    fail(std::move(error));
    return {};
  }
  double wait = backoff();
  // A connection that broke off is simply replaced.
  if (attempt.delivering() && failures_ <= 1) wait = 0;
  fresh_ = attempt.delivering() || error.code == ErrorCode::kTimeout;
  const bool throttled = verdict.outcome == Outcome::kThrottle;
  if (throttled) {
    wait = std::max(wait, std::min(attempt.retry_after(), policy.backoff_cap));
    object().host().quieten(now + to_duration(wait));
  }
  due_ = now + to_duration(wait);
  return {.throttled = throttled, .retried = true};
}

void HttpRead::follow(const HttpAttempt& attempt) {
  const auto refuse = [&](ErrorCode code, std::string message) {
    fail({.code = code,
          .message = std::move(message),
          .http_status = attempt.head().status,
          .request_id = attempt.head().request_id});
  };
  if (++redirects_ > object().options().policy.max_redirects) {
    return refuse(ErrorCode::kProtocol, "too many redirects");
  }
  const std::string& from = attempt.target().url;
  std::string to = resolve_url(from, attempt.head().location);
  const std::string origin = origin_of(to);
  if (origin.empty()) {
    return refuse(ErrorCode::kProtocol, "the server redirects to something that is not http or https");
  }
  if (origin_of(from).starts_with("https:") && !origin.starts_with("https:")) {  // as written, either may be "HTTPS:"
    return refuse(ErrorCode::kProtocol, kFromTlsToPlain);
  }
  if (const auto scope = scope_of_host(to); !may_lead_to(attempt.scope(), scope)) {
    return refuse(ErrorCode::kProtocol, misled(to, scope));
  }
  --attempts_;  // a redirect is a step of one attempt
  object().redirected(attempt.target(), attempt.scope(), std::move(to));
}

void HttpRead::renew(const HttpAttempt& attempt, Error error, Clock::time_point now) {
  if (attempt.target().redirected && !back_to_origin_) {
    back_to_origin_ = true;
    object().forget_redirect(attempt.target());
    return;
  }
  if (renewed_ || !object().ask_renewal(attempt.target().generation)) return fail(std::move(error));
  refusal_ = std::move(error);
  renewing_ = attempt.target().generation;
  renewing_since_ = now;
  refused_ = true;
}

}  // namespace weightstream
