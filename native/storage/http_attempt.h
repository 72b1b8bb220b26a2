// One HTTP request for one range: sends it, judges its head, and writes the body in place, not a byte more.
#pragma once

#include <curl/curl.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "storage/http_head.h"
#include "storage/http_object.h"
#include "storage/http_verdict.h"

namespace weightstream {

// Used by one thread: that of the multi handle it is added to.
class HttpAttempt {
 public:
  using Clock = std::chrono::steady_clock;

  // `owner` is given back by owner(); `fresh` asks for a new connection; bytes that land are added to `arrived`.
  HttpAttempt(void* owner, HttpAsked asked, HttpObject::Target target, std::byte* into, bool fresh,
              std::uint64_t& arrived);
  ~HttpAttempt();
  HttpAttempt(const HttpAttempt&) = delete;
  HttpAttempt& operator=(const HttpAttempt&) = delete;

  // Sets the request up. kStorage when there is no memory.
  Status prepare();
  // The transfer's socket, as libcurl announces it.
  void on_socket(curl_socket_t socket) { socket_ = socket; }
  // The transfer lets go of it; it is still open, and goes back to the others as it was.
  void on_socket_gone(curl_socket_t socket);
  // What libcurl's end of the transfer means.
  [[nodiscard]] Verdict finish(CURLcode code);

  [[nodiscard]] CURL* handle() const { return easy_; }
  [[nodiscard]] void* owner() const { return owner_; }
  [[nodiscard]] const HttpAsked& asked() const { return asked_; }
  [[nodiscard]] const HttpObject::Target& target() const { return target_; }
  [[nodiscard]] const HttpHead& head() const { return head_; }
  // Bytes of the range in place, from its begin on.
  [[nodiscard]] std::uint64_t received() const { return received_; }
  // The bytes that the response announced; of an opening request only known with its head.
  [[nodiscard]] ByteRange body() const { return body_; }
  [[nodiscard]] bool delivering() const { return verdict_ && verdict_->outcome == Outcome::kBody; }
  [[nodiscard]] Clock::time_point begun() const { return begun_; }
  [[nodiscard]] std::optional<Clock::time_point> first_byte() const { return first_byte_; }
  // Seconds to wait that the server asked for; 0 when it did not.
  [[nodiscard]] double retry_after() const;
  // How long it is that `bytes` more had come; looked at regularly.
  [[nodiscard]] double seconds_without(std::uint64_t bytes, Clock::time_point now);
  // Lets the next bytes wake the thread however few they are.
  void listen_closely() { wake_at(1); }

 private:
  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) noexcept;
  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) noexcept;
  bool take_header(std::string_view line);
  bool take_body(const std::byte* data, std::size_t bytes);
  void wake_at(int bytes);
  void tune_wakeups();

  void* const owner_;
  const HttpAsked asked_;
  const HttpObject::Target target_;
  std::byte* const into_;
  const bool fresh_;
  std::uint64_t& arrived_;
  CURL* easy_ = nullptr;
  curl_slist* headers_ = nullptr;
  char detail_[CURL_ERROR_SIZE] = {};
  curl_socket_t socket_ = CURL_SOCKET_BAD;
  int wake_at_ = 1;
  HttpHead head_;
  std::optional<Verdict> verdict_;  // of the head; made at the first byte of the body, or at the end
  std::optional<Verdict> violation_;  // why this side broke the transfer off
  std::string error_body_;
  ByteRange body_;
  std::uint64_t received_ = 0;
  Clock::time_point begun_;
  std::optional<Clock::time_point> first_byte_;
  std::uint64_t mark_ = 0;  // received_ when there last was progress, and when that was
  std::optional<Clock::time_point> marked_;
};

}  // namespace weightstream
