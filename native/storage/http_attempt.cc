#include "storage/http_attempt.h"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <ctime>
#include <utility>

#include "storage/http_request.h"

namespace weightstream {
namespace {

constexpr std::size_t kMostErrorBodyBytes = 16 << 10;
// What one attempt receives before the others have their turn: two milliseconds or so.
constexpr std::uint64_t kMostAtOnce = 8 << 20;
// A fast connection wakes its thread for this much at a time, or for what comes in this time.
constexpr int kMostWakeBytes = 2 << 20;
constexpr auto kMostWakeTime = std::chrono::milliseconds(20);
// What TLS may hold back of the bytes that were received.
constexpr std::uint64_t kTlsSlackBytes = 64 << 10;

Error out_of_memory(const HttpAsked& asked) {
  return {.code = ErrorCode::kStorage,
          .message = "out of memory",
          .source = asked.object->name(),
          .range = asked.range,
          .system_errno = ENOMEM};
}

}  // namespace

HttpAttempt::HttpAttempt(void* owner, HttpAsked asked, HttpObject::Target target, std::byte* into, bool fresh,
                         std::uint64_t& arrived)
    : owner_(owner),
      asked_(asked),
      target_(std::move(target)),
      into_(into),
      fresh_(fresh),
      arrived_(arrived),
      begun_(Clock::now()) {}

Status HttpAttempt::begin(HttpConnectionPool& pool) {
  const HttpOptions& options = asked_.object->options();
  request_ = http_request({.url = target_.url,
                           .range = asked_.range,
                           .if_match = asked_.object->if_match(),
                           .headers = target_.with_headers ? &target_.access->headers : nullptr,
                           .user_agent = options.user_agent});
  sent_ = 0;
  framing_ = HttpFraming();
  stale_ = false;
  connection_ = std::exchange(fresh_, true) ? nullptr : pool.take(target_.url, options);
  connected_ = connection_ ? CURLE_OK : CURLE_AGAIN;
  if (!connection_) connection_ = HttpConnection::begin(pool.multi(), target_.url, options);
  if (!connection_) return out_of_memory(asked_);
  connection_->user = this;
  ready_ = !connecting();
  return Ok{};
}

void HttpAttempt::release(HttpConnectionPool& pool) {
  connected_ = CURLE_AGAIN;
  if (connection_ && framing_.reusable() && !excess_) pool.give_back(std::move(connection_));
  connection_.reset();
}

std::optional<Verdict> HttpAttempt::advance(std::span<std::byte> scratch) {
  ready_ = false;
  if (connected_ != CURLE_OK) return failed(connected_);
  if (sending()) {
    if (auto end = look_where_it_led()) return end;
    if (auto end = send()) return end;
    if (sending()) return std::nullopt;
  }
  const auto before = moved_;
  while (moved_ - before < kMostAtOnce) {
    auto end = receive(scratch);
    if (end || !ready_) return end;
  }
  return std::nullopt;
}

// Before anything is sent: what a name means is known only now, and its owner may have changed his mind about it.
std::optional<Verdict> HttpAttempt::look_where_it_led() {
  scope_ = connection_->scope();
  if (!target_.led_from || may_lead_to(*target_.led_from, scope_)) return std::nullopt;
  return violation(misled(target_.url, scope_));
}

std::optional<Verdict> HttpAttempt::send() {
  while (sending()) {
    std::size_t sent = 0;
    const CURLcode code = connection_->send(std::string_view(request_).substr(sent_), sent);
    if (code == CURLE_AGAIN) return std::nullopt;
    if (code != CURLE_OK) return failed(code);
    sent_ += sent;
  }
  return std::nullopt;
}

// Receives once. Leaves ready_ set when there may be more.
std::optional<Verdict> HttpAttempt::receive(std::span<std::byte> scratch) {
  // As much as belongs to the body can go to its place at once; what frames it must not.
  const bool straight = in_place() && framing_.run() > 0 && received_ < body_.size();
  const auto room =
      straight ? std::span(into_ + received_, std::min(framing_.run(), body_.size() - received_)) : scratch;
  std::size_t count = 0;
  const CURLcode code = connection_->receive(room, count);
  // What is less than there was room for is all there was: the socket tells of the rest, in larger pieces.
  ready_ = code == CURLE_OK && count > 0 && (count == room.size() || connection_->layered());
  if (code == CURLE_AGAIN) return std::nullopt;
  if (code != CURLE_OK) return failed(code);
  moved_ += count;
  if (count == 0) {
    framing_.connection_ended();
    return framing_.part() == HttpFraming::Part::kEnd ? ended() : failed(CURLE_PARTIAL_FILE);
  }
  if (!straight) return take(room.first(count));
  if (!first_byte_) first_byte_ = Clock::now();
  framing_.took(count);
  landed(count);
  if (framing_.part() == HttpFraming::Part::kEnd) return ended();
  return std::nullopt;
}

std::optional<Verdict> HttpAttempt::take(std::span<const std::byte> bytes) {
  while (!bytes.empty() && framing_.part() != HttpFraming::Part::kEnd) {
    std::size_t taken = 0;
    if (framing_.run() > 0) {
      taken = static_cast<std::size_t>(std::min<std::uint64_t>(framing_.run(), bytes.size()));
      if (auto end = take_body(bytes.first(taken))) return end;
      framing_.took(taken);
    } else {
      taken = framing_.frame({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
      if (framing_.part() == HttpFraming::Part::kBroken) {
        stale_ = connection_->used() && !framing_.begun();  // what a server said after its last answer
        return violation(framing_.begun()
                             ? framing_.defect()
                             : origin_of(target_.url) + " does not answer in HTTP/1.1: " + framing_.defect());
      }
      if (!verdict_ && framing_.part() != HttpFraming::Part::kHead) {
        if (auto end = take_head()) return end;
      }
    }
    bytes = bytes.subspan(taken);
  }
  excess_ = !bytes.empty();
  if (framing_.part() == HttpFraming::Part::kEnd) return ended();
  return std::nullopt;
}

std::optional<Verdict> HttpAttempt::take_head() {
  target_.host->heard();
  verdict_ = judge_head(framing_.head(), asked_);
  body_ = verdict_->body;
  // A response that is not kept may be of any size: only errors are worth reading, and those only so far.
  if (verdict_->outcome == Outcome::kFail && head().status < 300) return std::move(*verdict_);
  return std::nullopt;
}

std::optional<Verdict> HttpAttempt::take_body(std::span<const std::byte> bytes) {
  if (!first_byte_) first_byte_ = Clock::now();
  if (!in_place()) {
    const auto room = kMostErrorBodyBytes - error_body_.size();
    error_body_.append(reinterpret_cast<const char*>(bytes.data()), std::min(bytes.size(), room));
    if (error_body_.size() < kMostErrorBodyBytes) return std::nullopt;
    return ended();
  }
  if (bytes.size() > body_.size() - received_) {
    auto verdict = violation("the server sent more bytes than it was asked for");
    verdict.error.expected = body_.size();
    verdict.error.got = received_ + bytes.size();
    return verdict;
  }
  std::memcpy(into_ + received_, bytes.data(), bytes.size());
  landed(bytes.size());
  return std::nullopt;
}

void HttpAttempt::landed(std::size_t bytes) {
  received_ += bytes;
  arrived_ += bytes;
  tune_wakeups();
}

// The response is whole, or enough of an error's body is there.
Verdict HttpAttempt::ended() {
  if (in_place() && received_ < body_.size()) return failed(CURLE_PARTIAL_FILE);
  if (verdict_->outcome == Outcome::kBody || verdict_->outcome == Outcome::kRedirect) return std::move(*verdict_);
  return judge_error(head(), asked_, error_body_);
}

Verdict HttpAttempt::failed(CURLcode code) {
  if (verdict_ && !in_place()) return ended();  // what came of the error says enough
  if (in_place() && received_ == body_.size()) return std::move(*verdict_);  // whatever came after it
  // A server may end a connection between requests; that of the next one crosses it on its way.
  stale_ = connected_ == CURLE_OK && connection_->used() && !framing_.begun();
  if (const int status = connection_->proxy_status(); connected_ != CURLE_OK && status >= 300) {
    return judge_proxy(status, asked_);
  }
  auto verdict =
      judge_transport(code, connection_->detail(), head(), asked_, body_.empty() ? asked_.range : body_, received_);
  if (code == CURLE_COULDNT_CONNECT) verdict.error.system_errno = connection_->system_errno();
  return verdict;
}

Verdict HttpAttempt::given_up(Verdict late) { return verdict_ && !in_place() ? ended() : std::move(late); }

Verdict HttpAttempt::violation(std::string message) const {
  return {Outcome::kFail,
          {.code = ErrorCode::kProtocol,
           .message = std::move(message),
           .source = asked_.object->name(),
           .range = asked_.range,
           .http_status = head().status,
           .request_id = head().request_id}};
}

// A connection that is fast need not wake its thread for every packet; one that is slow, or near its end, must.
void HttpAttempt::tune_wakeups() {
  const auto left = body_.size() - received_;
  int bytes = 1;
  if (left > kMostWakeBytes + kTlsSlackBytes) {
    // Over that time at least: what came along with the head says nothing of the connection.
    const auto elapsed = std::max<Clock::duration>(Clock::now() - *first_byte_, kMostWakeTime);
    const auto per_wake = static_cast<double>(received_) * (kMostWakeTime / std::chrono::duration<double>(elapsed));
    for (bytes = kMostWakeBytes; bytes > 1 && bytes > per_wake; bytes /= 2) {
    }
  }
  connection_->wake_at(bytes);
}

void HttpAttempt::listen_closely() {
  if (connected_ == CURLE_OK) connection_->wake_at(1);
}

double HttpAttempt::seconds_without(std::uint64_t bytes, Clock::time_point now) {
  if (!marked_ || received_ >= mark_ + bytes) {
    mark_ = received_;
    marked_ = now;
  }
  const double seconds = std::chrono::duration<double>(now - *marked_).count();
  // What there is may be too little to wake us.
  if (seconds > std::min(0.5, asked_.object->options().policy.stall_seconds / 2)) listen_closely();
  return seconds;
}

double HttpAttempt::retry_after() const {
  const std::string& text = head().retry_after;
  double seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size()) {
    const auto date = curl_getdate(text.c_str(), nullptr);
    seconds = date < 0 ? 0 : std::difftime(date, std::time(nullptr));
  }
  return seconds > 0 ? seconds : 0;  // not for what is no number
}

}  // namespace weightstream
