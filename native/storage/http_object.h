// A URL as a source: how to reach it, how large it is, and which version of it is being read.
//
// Thread-safe. The access (URL and headers) may be replaced while it is read, because credentials end; what the object
// is may not: its size and version are pinned by the first response, or by a listing, and every response is compared.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "storage/address_scope.h"
#include "storage/http_head.h"
#include "storage/http_host.h"
#include "storage/http_policy.h"
#include "storage/source.h"
#include "storage/url.h"

namespace weightstream {

inline constexpr char kFromTlsToPlain[] = "the server redirects from https to plain http; this is not followed";

struct HttpAccess {
  std::string url;
  std::vector<std::string> headers;  // "Name: value"; each counts as a credential
  std::optional<double> expires_at;  // seconds since the epoch
  std::string redirected_by = {};    // the URL of a server that redirected to `url`; empty: nobody did
};

struct HttpOptions {
  std::string ca_bundle;          // a file or a folder; empty: the system's
  std::string ca_origin;          // what named it, for messages
  bool verify = true;             // the server's certificate
  bool allow_plain_http = false;  // send credentials unencrypted to other machines
  std::string user_agent = "weightstream";
  HttpPolicy policy;
};

class HttpObject;

// Objects that need new access, for whoever can get it. Thread-safe.
class Renewals : public std::enable_shared_from_this<Renewals> {
 public:
  void ask(std::weak_ptr<const HttpObject> object);
  // The next object that asks; null when none did within `patience`.
  std::shared_ptr<const HttpObject> next(std::chrono::milliseconds patience);

 private:
  std::mutex mutex_;
  std::condition_variable asked_;
  std::deque<std::weak_ptr<const HttpObject>> waiting_;
};

class HttpObject final : public Source, public std::enable_shared_from_this<HttpObject> {
 public:
  // `size` and `etag` as a listing said, if it did. Fails with kConfig for what must not or cannot be asked for.
  static Result<std::shared_ptr<HttpObject>> make(std::string name, HttpAccess access,
                                                  std::optional<std::uint64_t> size, std::string etag,
                                                  HttpOptions options, std::shared_ptr<Renewals> renewals,
                                                  const HttpHosts& hosts);

  [[nodiscard]] const std::string& name() const override { return name_; }
  // Zero until it is known.
  [[nodiscard]] std::uint64_t size() const override;
  [[nodiscard]] bool size_known() const;
  [[nodiscard]] const HttpOptions& options() const { return options_; }
  [[nodiscard]] HttpHost& host() const { return *host_; }

  // True for the first who asks: what there is to say of an object is said once.
  [[nodiscard]] bool first_use() const { return !used_.exchange(true); }

  // Where to send a request now.
  struct Target {
    std::string url;
    std::shared_ptr<const HttpAccess> access;
    std::shared_ptr<HttpHost> host;  // of `url`, which a redirect may have changed
    std::uint32_t generation = 0;
    bool with_headers = true;  // the access's headers belong to this origin
    bool redirected = false;
    std::optional<AddressScope> led_from = {};  // the scope of the server that redirected here, if one did
  };
  [[nodiscard]] Target target() const;
  // Remembers where `from`, a server of that scope, led, for the requests to come; forgotten with the access or by
  // forget_redirect().
  void redirected(const Target& from, AddressScope scope, std::string url) const;
  // Unless it leads somewhere else by now.
  void forget_redirect(const Target& from) const;

  // Whether access of `generation` ends within `seconds`.
  [[nodiscard]] bool expires_within(double seconds) const;
  // Whether it was made anew in the last `seconds`.
  [[nodiscard]] bool renewed_within(double seconds) const;
  // Asks for newer access than `generation`, once for all who ask. False when nobody can give it.
  [[nodiscard]] bool ask_renewal(std::uint32_t generation) const;
  enum class Renewal : std::uint8_t { kPending, kDone, kFailed };
  [[nodiscard]] Renewal renewal(std::uint32_t generation) const;
  [[nodiscard]] std::string renewal_failure() const;
  void renew(HttpAccess access) const;
  void renewal_failed(std::string message) const;

  // Pins what the first successful response says of the object; compares every later one: kSourceChanged.
  Status check_version(const HttpHead& head, std::optional<std::uint64_t> total) const;
  // The value of If-Match; empty without a strong ETag.
  [[nodiscard]] std::string if_match() const;
  // What tells the version that is pinned from others: a strong ETag, the storage's own version, or the modification
  // time. Empty when nothing does, or nothing was read yet.
  [[nodiscard]] std::string version() const;
  // Whether two responses can be told to be of the same version: what is not cannot be resumed.
  [[nodiscard]] bool resumable() const;

 private:
  HttpObject(std::string name, HttpAccess access, std::optional<std::uint64_t> size, std::string etag,
             HttpOptions options, std::shared_ptr<Renewals> renewals, const HttpHosts& hosts);
  [[nodiscard]] Error changed(const char* what, const std::string& before, const std::string& now) const;

  const std::string name_;
  const HttpOptions options_;
  const std::shared_ptr<Renewals> renewals_;  // null: access cannot be renewed
  const HttpHosts hosts_;
  const std::shared_ptr<HttpHost> host_;

  mutable std::atomic<bool> used_ = false;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const HttpAccess> access_;
  mutable std::uint32_t generation_ = 0;
  mutable bool renewal_pending_ = false;
  mutable std::optional<HttpHost::Clock::time_point> renewed_at_;
  mutable std::string renewal_failure_;
  mutable std::string redirect_;
  mutable AddressScope redirect_scope_ = AddressScope::kGlobal;  // of who redirected
  mutable std::shared_ptr<HttpHost> redirect_host_;
  mutable std::optional<std::uint64_t> size_;
  mutable bool pinned_ = false;
  mutable std::string etag_;
  mutable std::string last_modified_;
  mutable std::string version_id_;
};

}  // namespace weightstream
