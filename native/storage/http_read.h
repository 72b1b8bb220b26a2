// One read over HTTP: as many requests as it takes to bring its bytes, and no more than the policy allows.
//
// Used by one thread. The owner starts the attempts that it asks for and tells it how they ended.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/result.h"
#include "storage/http_attempt.h"
#include "storage/reader.h"

namespace weightstream {

class HttpRead {
 public:
  using Clock = HttpAttempt::Clock;

  HttpRead(const ReadRequest& request, Clock::time_point now);

  [[nodiscard]] const ReadRequest& request() const { return request_; }
  [[nodiscard]] const HttpObject& object() const { return static_cast<const HttpObject&>(*request_.source); }
  [[nodiscard]] Clock::time_point begun() const { return begun_; }

  // Whether to start an attempt now; `next_step` is when to ask again (also while one runs, for its time limits).
  [[nodiscard]] bool wants_attempt(Clock::time_point now);
  [[nodiscard]] Clock::time_point next_step() const { return due_; }
  std::unique_ptr<HttpAttempt> make_attempt(std::uint64_t& arrived);

  // A second request for what is missing, on a fresh connection, while `main` goes on.
  std::unique_ptr<HttpAttempt> make_hedge(const HttpAttempt& main, std::uint64_t& arrived);
  [[nodiscard]] bool can_hedge() const { return !hedged_ && object().resumable() && object().size_known(); }

  // What has been going wrong with a running attempt, if it has to be given up: it stalls, or does not answer.
  [[nodiscard]] std::optional<Verdict> check(HttpAttempt& attempt, Clock::time_point now);

  // How an attempt ended. `alone` is false when its hedge still runs: then a failure is not the read's.
  // Says what the host should be spared for, if anything.
  struct Consequence {
    bool throttled = false;
    bool retried = false;
  };
  Consequence ended(HttpAttempt& attempt, Verdict verdict, bool alone, Clock::time_point now);

  // The end of the read, once it has come.
  [[nodiscard]] std::optional<Result<ReadEffort>>& result() { return result_; }
  // Ends it from outside: closed, or out of memory.
  void give_up(Error error);
  // The same when there is not even memory to say more.
  void give_up_without_memory() noexcept;

 private:
  [[nodiscard]] std::uint64_t end() const;
  [[nodiscard]] Clock::time_point end_of_silence() const;
  [[nodiscard]] Error silence() const;
  [[nodiscard]] double backoff() const;
  void credit(const HttpAttempt& attempt);
  void follow(const HttpAttempt& attempt);
  void renew(const HttpAttempt& attempt, Error error, Clock::time_point now);
  void fail(Error error);

  const ReadRequest request_;
  const Clock::time_point begun_;
  std::shared_ptr<HttpHost> asking_;  // whom the latest attempt asks, and since when this read has been asking it
  Clock::time_point asking_since_;
  std::uint64_t at_;        // the first offset that is not in place yet
  Clock::time_point due_;   // when to look again
  std::uint32_t attempts_ = 0;
  std::uint32_t failures_ = 0;          // in a row, of those that brought little
  std::uint32_t connect_failures_ = 0;  // in a row
  std::uint32_t redirects_ = 0;
  std::optional<std::uint32_t> renewing_;  // the generation of the access that was refused, or ends soon
  Clock::time_point renewing_since_;
  bool refused_ = false;  // renewing because a server refused, not because of the clock
  bool renewed_ = false;
  bool back_to_origin_ = false;  // a redirect that was remembered has been given up
  bool fresh_ = false;
  bool hedged_ = false;
  Error refusal_;
  std::optional<Result<ReadEffort>> result_;
};

}  // namespace weightstream
