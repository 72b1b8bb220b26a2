#include "storage/http_attempt.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <new>
#include <utility>

#include "base/streaming_copy.h"

namespace weightstream {
namespace {

// What libcurl reads at a time: large enough for few system calls, small enough to stay in the second-level cache.
constexpr long kReceiveBytes = 256 << 10;
constexpr std::size_t kMostErrorBodyBytes = 16 << 10;
// A fast connection wakes its thread for this much at a time, or for what comes in this time.
constexpr int kMostWakeBytes = 512 << 10;
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

// Whether this libcurl has the system's certificates in one file.
bool has_default_bundle() {
#if LIBCURL_VERSION_NUM >= 0x075400
  const auto* info = curl_version_info(CURLVERSION_NOW);
  if (info->age < CURLVERSION_TENTH || info->cainfo == nullptr) return false;
  std::error_code ignored;
  return std::filesystem::is_regular_file(info->cainfo, ignored);
#else
  return false;
#endif
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

HttpAttempt::~HttpAttempt() {
  curl_easy_cleanup(easy_);
  curl_slist_free_all(headers_);
}

Status HttpAttempt::prepare() {
  easy_ = curl_easy_init();
  if (easy_ == nullptr) return out_of_memory(asked_);
  bool complete = true;
  const auto header = [&](const std::string& line) {
    auto* longer = curl_slist_append(headers_, line.c_str());
    if (longer == nullptr) {
      complete = false;
    } else {
      headers_ = longer;
    }
  };
  header("Range: bytes=" + std::to_string(asked_.range.begin) + "-" + std::to_string(asked_.range.end - 1));
  header("Accept-Encoding: identity");
  if (const auto version = asked_.object->if_match(); !version.empty()) header("If-Match: " + version);
  if (target_.with_headers) {
    for (const auto& line : target_.access->headers) header(line);
  }

  const HttpOptions& options = asked_.object->options();
  const auto set = [&](CURLoption option, auto value) {
    complete = curl_easy_setopt(easy_, option, value) == CURLE_OK && complete;
  };
  set(CURLOPT_URL, target_.url.c_str());
#if LIBCURL_VERSION_NUM >= 0x075500
  set(CURLOPT_PROTOCOLS_STR, "http,https");
#else
  set(CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
  set(CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_1_1));
  set(CURLOPT_FOLLOWLOCATION, 0L);
  set(CURLOPT_NOSIGNAL, 1L);
  set(CURLOPT_NETRC, static_cast<long>(CURL_NETRC_IGNORED));
  set(CURLOPT_SUPPRESS_CONNECT_HEADERS, 1L);
  set(CURLOPT_USERAGENT, options.user_agent.c_str());
  set(CURLOPT_HTTPHEADER, headers_);
  set(CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.policy.connect_timeout * 1000));
  set(CURLOPT_BUFFERSIZE, kReceiveBytes);
  set(CURLOPT_TCP_KEEPALIVE, 1L);
  // Each new connection asks for the addresses anew and takes one of them: object stores spread by DNS.
  set(CURLOPT_DNS_CACHE_TIMEOUT, 0L);
  set(CURLOPT_DNS_SHUFFLE_ADDRESSES, 1L);
  if (fresh_) set(CURLOPT_FRESH_CONNECT, 1L);
  set(CURLOPT_SSL_VERIFYPEER, options.verify ? 1L : 0L);
  set(CURLOPT_SSL_VERIFYHOST, options.verify ? 2L : 0L);
  // One place for certificates, not a file and a folder: only then does libcurl keep them parsed between connections,
  // and parsing the system's takes longer than a handshake.
  if (options.ca_bundle.empty()) {
    if (has_default_bundle()) set(CURLOPT_CAPATH, nullptr);
  } else {
    std::error_code ignored;
    const bool folder = std::filesystem::is_directory(options.ca_bundle, ignored);
    set(CURLOPT_CAPATH, folder ? options.ca_bundle.c_str() : nullptr);
    set(CURLOPT_CAINFO, folder ? nullptr : options.ca_bundle.c_str());
  }
  set(CURLOPT_ERRORBUFFER, detail_);
  set(CURLOPT_HEADERFUNCTION, &HttpAttempt::on_header);
  set(CURLOPT_HEADERDATA, this);
  set(CURLOPT_WRITEFUNCTION, &HttpAttempt::on_body);
  set(CURLOPT_WRITEDATA, this);
  set(CURLOPT_PRIVATE, this);
#if LIBCURL_VERSION_NUM >= 0x075700
  // A name server that does not answer must not keep whoever stops waiting.
  curl_easy_setopt(easy_, CURLOPT_QUICK_EXIT, 1L);
#endif
  if (!complete) return out_of_memory(asked_);
  return Ok{};
}

std::size_t HttpAttempt::on_header(char* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto* attempt = static_cast<HttpAttempt*>(self);
  try {
    return attempt->take_header({data, size * count}) ? size * count : 0;
  } catch (const std::bad_alloc&) {
    attempt->violation_.emplace(Outcome::kFail,
                                Error{.code = ErrorCode::kStorage, .message = {}, .system_errno = ENOMEM});
    return 0;
  }
}

std::size_t HttpAttempt::on_body(char* data, std::size_t size, std::size_t count, void* self) noexcept {
  auto* attempt = static_cast<HttpAttempt*>(self);
  try {
    return attempt->take_body(reinterpret_cast<const std::byte*>(data), size * count) ? size * count : 0;
  } catch (const std::bad_alloc&) {
    attempt->violation_.emplace(Outcome::kFail,
                                Error{.code = ErrorCode::kStorage, .message = {}, .system_errno = ENOMEM});
    return 0;
  }
}

bool HttpAttempt::take_header(std::string_view line) {
  if (head_.add(line)) return true;
  violation_ = Verdict{Outcome::kFail,
                       {.code = ErrorCode::kProtocol,
                        .message = "the server sent more than 64 KiB of response headers",
                        .source = asked_.object->name(),
                        .range = asked_.range}};
  return false;
}

bool HttpAttempt::take_body(const std::byte* data, std::size_t bytes) {
  if (!verdict_) {
    first_byte_ = Clock::now();
    verdict_ = judge_head(head_, asked_);
    body_ = verdict_->body;
    // A response that is not kept may be of any size: only errors are worth reading, and those only so far.
    if (verdict_->outcome == Outcome::kFail && head_.status < 300) return false;
  }
  if (verdict_->outcome != Outcome::kBody || head_.status >= 300) {
    const auto room = kMostErrorBodyBytes - error_body_.size();
    error_body_.append(reinterpret_cast<const char*>(data), std::min(bytes, room));
    return error_body_.size() < kMostErrorBodyBytes;
  }
  if (bytes > body_.size() - received_) {
    violation_ = Verdict{Outcome::kFail,
                         {.code = ErrorCode::kProtocol,
                          .message = "the server sent more bytes than it was asked for",
                          .source = asked_.object->name(),
                          .range = asked_.range,
                          .expected = body_.size(),
                          .got = received_ + bytes,
                          .http_status = head_.status,
                          .request_id = head_.request_id}};
    return false;
  }
  streaming_copy(into_ + received_, data, bytes);
  received_ += bytes;
  arrived_ += bytes;
  tune_wakeups();
  return true;
}

void HttpAttempt::wake_at(int bytes) {
  if (bytes == wake_at_ || socket_ == CURL_SOCKET_BAD) return;
  if (::setsockopt(socket_, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof bytes) == 0) wake_at_ = bytes;
}

void HttpAttempt::on_socket_gone(curl_socket_t socket) {
  if (socket != socket_) return;
  wake_at(1);
  socket_ = CURL_SOCKET_BAD;
}

// A connection that is fast need not wake its thread for every packet; one that is slow, or near its end, must.
void HttpAttempt::tune_wakeups() {
  const auto left = body_.size() - received_;
  int bytes = 1;
  if (left > kMostWakeBytes + kTlsSlackBytes) {
    const auto elapsed = std::max<Clock::duration>(Clock::now() - *first_byte_, std::chrono::microseconds(1));
    const auto per_wake = static_cast<double>(received_) * (kMostWakeTime / std::chrono::duration<double>(elapsed));
    for (bytes = kMostWakeBytes; bytes > 1 && bytes > per_wake; bytes /= 2) {
    }
  }
  wake_at(bytes);
}

double HttpAttempt::seconds_without(std::uint64_t bytes, Clock::time_point now) {
  if (!marked_ || received_ >= mark_ + bytes) {
    mark_ = received_;
    marked_ = now;
  }
  const double seconds = std::chrono::duration<double>(now - *marked_).count();
  if (seconds > 0.5) listen_closely();  // what there is may be too little to wake us
  return seconds;
}

double HttpAttempt::retry_after() const {
  curl_off_t seconds = 0;
  curl_easy_getinfo(easy_, CURLINFO_RETRY_AFTER, &seconds);
  return static_cast<double>(std::max<curl_off_t>(seconds, 0));
}

Verdict HttpAttempt::finish(CURLcode code) {
  if (violation_) {
    if (violation_->error.system_errno == ENOMEM) violation_->error = out_of_memory(asked_);
    return std::move(*violation_);
  }
  if (code == CURLE_OUT_OF_MEMORY && !verdict_) {
    // Older versions of libcurl say the same of a header line that is longer than they take (100 KB).
    curl_off_t answered = 0;
    curl_easy_getinfo(easy_, CURLINFO_STARTTRANSFER_TIME_T, &answered);
    if (answered > 0) code = CURLE_WEIRD_SERVER_REPLY;
  }
  if (!verdict_ && head_.status >= 200 && (code == CURLE_OK || head_.status >= 300)) {
    verdict_ = judge_head(head_, asked_);
    body_ = verdict_->body;
  }
  if (verdict_ && verdict_->outcome != Outcome::kBody) {
    if (verdict_->outcome == Outcome::kRedirect || head_.status < 300) return std::move(*verdict_);
    return judge_error(head_, asked_, error_body_);
  }
  if (verdict_ && received_ == body_.size()) return std::move(*verdict_);  // whatever came after it
  auto verdict = judge_transport(code, detail_, head_, asked_, body_.empty() ? asked_.range : body_, received_);
  long system_errno = 0;
  curl_easy_getinfo(easy_, CURLINFO_OS_ERRNO, &system_errno);
  if (code == CURLE_COULDNT_CONNECT) verdict.error.system_errno = static_cast<int>(system_errno);
  return verdict;
}

}  // namespace weightstream
