#include "storage/http_object.h"

#include <algorithm>
#include <utility>

namespace weightstream {
namespace {

// Of an origin. A name that only looks like an address ("127.0.0.1.example") is somebody else's machine.
bool is_loopback(std::string_view origin) {
  std::string_view host = origin.substr(origin.find("://") + 3);
  host = host.substr(0, host.rfind(':'));
  const bool address = host.find_first_not_of("0123456789.") == std::string_view::npos;
  return host == "localhost" || host == "[::1]" || (address && host.starts_with("127."));
}

// What a server sent, fit to be printed.
std::string shown(const std::string& text) {
  constexpr std::size_t kMost = 100;
  if (text.empty()) return "not there";
  std::string result = text.substr(0, kMost);
  for (char& c : result) {
    if (c < 32 || c > 126) c = '?';
  }
  return text.size() > kMost ? result + "..." : result;
}

bool has_control(const std::string& text) {
  return std::any_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 32 || c == 127; });
}

// RFC 9110, section 8.8.3. Anything else is not sent to anybody: it could end the header that it stands in.
bool is_entity_tag(std::string_view text) {
  return text.size() >= 2 && text.front() == '"' && text.back() == '"' &&
         std::all_of(text.begin() + 1, text.end() - 1, [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte > 32 && byte != '"' && byte != 127;
         });
}

bool has_credentials(const HttpAccess& access) {
  return !access.headers.empty() || !Url(access.url).part(CURLUPART_USER).empty();
}

Status check_access(const HttpAccess& access, const HttpOptions& options) {
  const std::string origin = origin_of(access.url);
  if (origin.empty() || has_control(access.url)) {
    return Error{.code = ErrorCode::kConfig, .message = "this is not an http or https URL that can be requested"};
  }
  if (origin.starts_with("http:") && origin_of(access.redirected_by).starts_with("https:")) {
    return Error{.code = ErrorCode::kProtocol, .message = kFromTlsToPlain};
  }
  for (const auto& header : access.headers) {
    const auto colon = header.find(':');
    if (!has_control(header) && colon != std::string::npos && colon > 0) continue;
    return Error{
        .code = ErrorCode::kConfig,
        .message = "a request header has a control character (a line break?) or no name; its value is not shown"};
  }
  if (origin.starts_with("http:") && has_credentials(access) && !options.allow_plain_http && !is_loopback(origin)) {
    return Error{.code = ErrorCode::kConfig,
                 .message =
                     "credentials would go over plain HTTP to another machine; use https, or say "
                     "allow_plain_http=True in storage_options[\"http\"] if that network is trusted"};
  }
  return Ok{};
}

}  // namespace

void Renewals::ask(std::weak_ptr<const HttpObject> object) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(object));
  asked_.notify_one();
}

std::shared_ptr<const HttpObject> Renewals::next(std::chrono::milliseconds patience) {
  std::unique_lock lock(mutex_);
  if (!asked_.wait_for(lock, patience, [this] { return !waiting_.empty(); })) return nullptr;
  auto object = waiting_.front().lock();
  waiting_.pop_front();
  return object;
}

Result<std::shared_ptr<HttpObject>> HttpObject::make(std::string name, HttpAccess access,
                                                     std::optional<std::uint64_t> size, std::string etag,
                                                     HttpOptions options, std::shared_ptr<Renewals> renewals,
                                                     const HttpHosts& hosts) {
  if (auto fit = check_access(access, options); !fit) return std::move(fit).error().at(name);
  return std::shared_ptr<HttpObject>(new HttpObject(std::move(name), std::move(access), size, std::move(etag),
                                                    std::move(options), std::move(renewals), hosts));
}

HttpObject::HttpObject(std::string name, HttpAccess access, std::optional<std::uint64_t> size, std::string etag,
                       HttpOptions options, std::shared_ptr<Renewals> renewals, const HttpHosts& hosts)
    : name_(std::move(name)),
      options_(std::move(options)),
      renewals_(std::move(renewals)),
      hosts_(hosts),
      host_(hosts.at(origin_of(access.url))),
      access_(std::make_shared<const HttpAccess>(std::move(access))),
      size_(size),
      etag_(std::move(etag)) {}

std::uint64_t HttpObject::size() const {
  const std::lock_guard lock(mutex_);
  return size_.value_or(0);
}

bool HttpObject::size_known() const {
  const std::lock_guard lock(mutex_);
  return size_.has_value();
}

HttpObject::Target HttpObject::target() const {
  const std::lock_guard lock(mutex_);
  Target target{.url = access_->url, .access = access_, .host = host_, .generation = generation_};
  if (!access_->redirected_by.empty()) target.led_from = scope_of_host(access_->redirected_by);
  if (!redirect_.empty()) {
    target.with_headers = origin_of(redirect_) == origin_of(access_->url);
    target.url = redirect_;
    target.host = redirect_host_;
    target.redirected = true;
    target.led_from = redirect_scope_;
  }
  return target;
}

void HttpObject::redirected(const Target& from, AddressScope scope, std::string url) const {
  auto host = hosts_.at(origin_of(url));
  const std::lock_guard lock(mutex_);
  if (from.generation != generation_) return;
  redirect_ = std::move(url);
  redirect_scope_ = scope;
  redirect_host_ = std::move(host);
}

void HttpObject::forget_redirect(const Target& from) const {
  const std::lock_guard lock(mutex_);
  if (redirect_ == from.url) redirect_.clear();
}

bool HttpObject::expires_within(double seconds) const {
  const std::lock_guard lock(mutex_);
  if (!access_->expires_at) return false;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return *access_->expires_at - std::chrono::duration<double>(now).count() < seconds;
}

bool HttpObject::renewed_within(double seconds) const {
  const std::lock_guard lock(mutex_);
  return renewed_at_ && std::chrono::duration<double>(HttpHost::Clock::now() - *renewed_at_).count() < seconds;
}

bool HttpObject::ask_renewal(std::uint32_t generation) const {
  if (!renewals_) return false;
  const std::lock_guard lock(mutex_);
  if (generation != generation_ || renewal_pending_) return true;
  renewal_pending_ = true;
  renewal_failure_.clear();
  renewals_->ask(weak_from_this());
  return true;
}

HttpObject::Renewal HttpObject::renewal(std::uint32_t generation) const {
  const std::lock_guard lock(mutex_);
  if (generation != generation_) return Renewal::kDone;
  return renewal_pending_ ? Renewal::kPending : Renewal::kFailed;
}

std::string HttpObject::renewal_failure() const {
  const std::lock_guard lock(mutex_);
  return renewal_failure_;
}

void HttpObject::renew(HttpAccess access) const {
  if (auto fit = check_access(access, options_); !fit) return renewal_failed(fit.error().message);
  const std::lock_guard lock(mutex_);
  access_ = std::make_shared<const HttpAccess>(std::move(access));
  redirect_.clear();
  ++generation_;
  renewed_at_ = HttpHost::Clock::now();
  renewal_pending_ = false;
}

void HttpObject::renewal_failed(std::string message) const {
  const std::lock_guard lock(mutex_);
  renewal_failure_ = std::move(message);
  renewal_pending_ = false;
}

Error HttpObject::changed(const char* what, const std::string& before, const std::string& now) const {
  return {.code = ErrorCode::kSourceChanged,
          .message = std::string("the object was replaced while it was being read: its ") + what + " was " +
                     shown(before) + ", and is now " + shown(now) + "; load it again",
          .source = name_};
}

Status HttpObject::check_version(const HttpHead& head, std::optional<std::uint64_t> total) const {
  const std::lock_guard lock(mutex_);
  if (size_ && total && *size_ != *total) {
    Error error = changed("size", std::to_string(*size_), std::to_string(*total));
    error.expected = size_;
    error.got = total;
    return error;
  }
  if (!etag_.empty() && !head.etag.empty() && etag_ != head.etag) return changed("ETag", etag_, head.etag);
  if (pinned_) {
    if (version_id_ != head.version_id) return changed("version", version_id_, head.version_id);
    if ((etag_.empty() || head.etag.empty()) && last_modified_ != head.last_modified) {
      return changed("modification time", last_modified_, head.last_modified);
    }
    return Ok{};
  }
  if (!size_) size_ = total;
  if (etag_.empty()) etag_ = head.etag;
  last_modified_ = head.last_modified;
  version_id_ = head.version_id;
  pinned_ = true;
  return Ok{};
}

std::string HttpObject::if_match() const {
  const std::lock_guard lock(mutex_);
  return is_entity_tag(etag_) ? etag_ : std::string();  // a weak one never matches (RFC 9110, section 13.1.1)
}

std::string HttpObject::version() const {
  const std::lock_guard lock(mutex_);
  if (!etag_.empty() && !etag_.starts_with("W/")) return etag_;
  if (!version_id_.empty()) return "version " + version_id_;
  return last_modified_.empty() ? std::string() : "modified " + last_modified_;
}

bool HttpObject::resumable() const {
  const std::lock_guard lock(mutex_);
  return !etag_.empty() || !version_id_.empty() || !last_modified_.empty();
}

}  // namespace weightstream
