// One HTTP request for one range: sends it, judges its head, and receives the body in place, not a byte more.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "storage/http_connections.h"
#include "storage/http_framing.h"
#include "storage/http_object.h"
#include "storage/http_verdict.h"

namespace weightstream {

// Used by one thread: that of the pool it takes its connection from.
class HttpAttempt {
 public:
  using Clock = std::chrono::steady_clock;

  // `owner` is given back by owner(); `fresh` asks for a new connection; bytes that land are added to `arrived`.
  HttpAttempt(void* owner, HttpAsked asked, HttpObject::Target target, std::byte* into, bool fresh,
              std::uint64_t& arrived);

  // Takes a connection that rests, or begins a new one. kStorage when there is no memory.
  Status begin(HttpConnectionPool& pool);
  [[nodiscard]] HttpConnection* connection() const { return connection_.get(); }
  // What libcurl said of connecting; then it advances.
  void connected(CURLcode code) { connected_ = code; }
  [[nodiscard]] bool connecting() const { return connected_ == CURLE_AGAIN; }

  // Sends and receives what goes without waiting, though not for long; `scratch` is for what has no place of its own.
  // Its verdict once it has ended.
  [[nodiscard]] std::optional<Verdict> advance(std::span<std::byte> scratch);
  [[nodiscard]] bool sending() const { return sent_ < request_.size(); }
  // Whether it can go on at once, although its socket need not say so.
  [[nodiscard]] bool ready() const { return ready_; }
  // The connection it took had ended meanwhile, as servers may do between requests: nothing was asked yet. It can
  // begin() again, on a new one.
  [[nodiscard]] bool met_a_stale_connection() const { return stale_; }

  // What it means that a time limit ends it: `late`, unless the answer is here and only the rest of its words is not.
  [[nodiscard]] Verdict given_up(Verdict late);
  // Lets go of the connection; it is kept for others if it is fit for them.
  void release(HttpConnectionPool& pool);

  [[nodiscard]] void* owner() const { return owner_; }
  [[nodiscard]] const HttpAsked& asked() const { return asked_; }
  [[nodiscard]] const HttpObject::Target& target() const { return target_; }
  // Whom it asked.
  [[nodiscard]] AddressScope scope() const { return scope_; }
  [[nodiscard]] const HttpHead& head() const { return framing_.head(); }
  // Bytes of the range in place, from its begin on.
  [[nodiscard]] std::uint64_t received() const { return received_; }
  [[nodiscard]] bool delivering() const { return verdict_ && verdict_->outcome == Outcome::kBody; }
  [[nodiscard]] Clock::time_point begun() const { return begun_; }
  [[nodiscard]] std::optional<Clock::time_point> first_byte() const { return first_byte_; }
  // Seconds to wait that the server asked for; 0 when it did not.
  [[nodiscard]] double retry_after() const;
  // How long it is that `bytes` more had come; looked at regularly.
  [[nodiscard]] double seconds_without(std::uint64_t bytes, Clock::time_point now);
  // Lets the next bytes wake the thread however few they are.
  void listen_closely();

 private:
  [[nodiscard]] std::optional<Verdict> look_where_it_led();
  [[nodiscard]] std::optional<Verdict> send();
  [[nodiscard]] std::optional<Verdict> receive(std::span<std::byte> scratch);
  [[nodiscard]] std::optional<Verdict> take(std::span<const std::byte> bytes);
  [[nodiscard]] std::optional<Verdict> take_head();
  [[nodiscard]] std::optional<Verdict> take_body(std::span<const std::byte> bytes);
  void landed(std::size_t bytes);
  [[nodiscard]] bool in_place() const { return delivering() && head().status < 300; }
  [[nodiscard]] Verdict ended();
  [[nodiscard]] Verdict failed(CURLcode code);
  [[nodiscard]] Verdict violation(std::string message) const;
  void tune_wakeups();

  void* const owner_;
  const HttpAsked asked_;
  const HttpObject::Target target_;
  std::byte* const into_;
  bool fresh_;
  std::uint64_t& arrived_;
  std::unique_ptr<HttpConnection> connection_;
  CURLcode connected_ = CURLE_AGAIN;
  AddressScope scope_ = AddressScope::kGlobal;  // of the connection, which may be let go before
  std::string request_;
  std::size_t sent_ = 0;
  HttpFraming framing_;
  bool excess_ = false;  // bytes came after the answer
  bool ready_ = false;
  bool stale_ = false;
  std::optional<Verdict> verdict_;  // of the head
  std::string error_body_;
  ByteRange body_;  // the bytes that the response announced
  std::uint64_t received_ = 0;
  std::uint64_t moved_ = 0;  // bytes that came, whatever they were
  Clock::time_point begun_;
  std::optional<Clock::time_point> first_byte_;
  std::uint64_t mark_ = 0;  // received_ when there last was progress, and when that was
  std::optional<Clock::time_point> marked_;
};

}  // namespace weightstream
