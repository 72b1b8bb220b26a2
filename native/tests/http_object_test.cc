// URLs, and objects behind them: what may be asked for, which version is read, and how access is renewed.
#include "storage/http_object.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include "process_state.h"

namespace weightstream {
namespace {

using std::chrono::milliseconds;

TEST(OriginOf, IsSchemeHostAndPort) {
  EXPECT_EQ(origin_of("https://host/a/b?c#d"), "https://host:443");
  EXPECT_EQ(origin_of("http://host"), "http://host:80");
  EXPECT_EQ(origin_of("http://host:8080/"), "http://host:8080");
  EXPECT_EQ(origin_of("HTTPS://HOST.Example/A"), "https://host.example:443");
  EXPECT_EQ(origin_of("https://user:password@host/"), "https://host:443");
  EXPECT_EQ(origin_of("https://[::1]:9000/x"), "https://[::1]:9000");
  EXPECT_EQ(origin_of("https://[FE80::1]/x"), "https://[fe80::1]:443");
  EXPECT_EQ(origin_of("http://host:80/"), origin_of("http://host/"));
  EXPECT_NE(origin_of("http://host/"), origin_of("https://host/"));
  EXPECT_NE(origin_of("http://host/"), origin_of("http://host:81/"));
}

TEST(OriginOf, AnythingElseHasNone) {
  for (const char* url : {"", "host", "/path", "ftp://host/", "file:///etc/passwd", "javascript:alert(1)", "https://",
                          "https://host:99999/", "https://host:x/", "https://[::1/", "gopher://host/", "https://a b/",
                          " https://host/"}) {
    EXPECT_EQ(origin_of(url), "") << url;
  }
}

TEST(ResolveUrl, AsTheServerMeantIt) {
  const std::string base = "https://host:8443/a/b?c=d";
  EXPECT_EQ(resolve_url(base, "https://other/x?y=z"), "https://other/x?y=z");
  EXPECT_EQ(resolve_url(base, "/x"), "https://host:8443/x");
  EXPECT_EQ(resolve_url(base, "x"), "https://host:8443/a/x");
  EXPECT_EQ(resolve_url(base, "../x"), "https://host:8443/x");
  EXPECT_EQ(resolve_url(base, "?x=y"), "https://host:8443/a/b?x=y");
  EXPECT_EQ(resolve_url(base, "//other/x"), "https://other/x");
  EXPECT_EQ(origin_of(resolve_url("http://host/", "HTTPS://Host/")), "https://host:443");
}

TEST(ResolveUrl, OtherSchemesLeadNowhere) {
  for (const char* location : {"ftp://host/x", "file:///etc/passwd", "gopher://host", "javascript:alert(1)",
                               "data:text/plain,x", "https://[::1/"}) {
    EXPECT_EQ(origin_of(resolve_url("https://host/a", location)), "") << location;
  }
  EXPECT_EQ(resolve_url("not a URL", "/x"), "");
}

TEST(PrintableUrl, HasNoSecrets) {
  EXPECT_EQ(printable_url("https://user:password@host:8443/a/b?X-Amz-Signature=s#f"), "https://host:8443/a/b");
  EXPECT_EQ(printable_url("https://token@[::1]:9/a"), "https://[::1]:9/a");
  EXPECT_EQ(printable_url("https://host/a"), "https://host/a");
  EXPECT_EQ(printable_url("secret?really"), "(a URL that cannot be parsed)");
}

class HttpObjectTest : public ::testing::Test {
 protected:
  Result<std::shared_ptr<HttpObject>> make(HttpAccess access, HttpOptions options = {},
                                           std::optional<std::uint64_t> size = std::nullopt, std::string etag = {}) {
    return HttpObject::make("name", std::move(access), size, std::move(etag), std::move(options), renewals_, hosts_);
  }
  std::shared_ptr<HttpObject> plain(std::optional<std::uint64_t> size = std::nullopt, std::string etag = {}) {
    auto made = make({.url = "https://host/a", .headers = {}, .expires_at = {}}, {}, size, std::move(etag));
    EXPECT_TRUE(made.ok());
    return *made;
  }
  void expect_refused(HttpAccess access, HttpOptions options = {}) {
    SCOPED_TRACE(access.url);
    const auto made = make(std::move(access), std::move(options));
    ASSERT_FALSE(made.ok());
    EXPECT_EQ(made.error().code, ErrorCode::kConfig);
    EXPECT_EQ(made.error().source, "name");
    EXPECT_EQ(made.error().message.find("SECRET"), std::string::npos);
  }

  HttpHosts hosts_;
  std::shared_ptr<Renewals> renewals_ = std::make_shared<Renewals>();
};

using HttpAccessRules = HttpObjectTest;
using HttpVersion = HttpObjectTest;
using HttpRenewal = HttpObjectTest;

TEST_F(HttpAccessRules, OnlyHttpUrls) {
  for (const char* url : {"", "host/a", "ftp://host/a", "file:///etc/passwd", "https://", "https://host/a\r\nX: SECRET",
                          "https://host/a b", "https://host:70000/"}) {
    expect_refused({.url = url, .headers = {}, .expires_at = {}});
  }
  expect_refused({.url = std::string("https://host/a\0SECRET", 21), .headers = {}, .expires_at = {}});
}

TEST_F(HttpAccessRules, HeadersAreLinesWithAName) {
  for (const std::string header :
       {"X: a\r\nY: SECRET", "X: a\nY: SECRET", "X: a\rSECRET", "SECRET", "", ": SECRET", "X: \x7f", "X: SECRET\x01"}) {
    expect_refused({.url = "https://host/", .headers = {"A: b", header}, .expires_at = {}});
  }
  expect_refused({.url = "https://host/", .headers = {std::string("X: a\0SECRET", 11)}, .expires_at = {}});
  EXPECT_TRUE(
      make({.url = "https://host/", .headers = {"X: \xC3\xA9", "Authorization: Bearer a:b"}, .expires_at = {}}).ok());
}

TEST_F(HttpAccessRules, NoCredentialsOverPlainHttpToOtherMachines) {
  HttpOptions allowed;
  allowed.allow_plain_http = true;
  for (const char* url : {"http://host/", "HTTP://host/", "http://10.0.0.1/", "http://localhost.example/",
                          "http://127.0.0.1.example/", "http://127.example/", "http://128.0.0.1/", "http://[::2]/"}) {
    expect_refused({.url = url, .headers = {"X: SECRET"}, .expires_at = {}});
    EXPECT_TRUE(make({.url = url, .headers = {}, .expires_at = {}}).ok()) << "without credentials: " << url;
    EXPECT_TRUE(make({.url = url, .headers = {"X: y"}, .expires_at = {}}, allowed).ok()) << url;
  }
  expect_refused({.url = "http://localhost@host/", .headers = {}, .expires_at = {}});
  for (const char* url : {"http://localhost:9000/", "http://LOCALHOST/", "http://127.0.0.1/", "http://127.8.9.10:1/",
                          "http://[::1]/", "https://host/"}) {
    EXPECT_TRUE(make({.url = url, .headers = {"X: y"}, .expires_at = {}}).ok()) << url;
  }
}

TEST_F(HttpAccessRules, ObjectsOfOneOriginShareTheirHost) {
  const auto a = *make({.url = "https://host/a", .headers = {}, .expires_at = {}});
  const auto b = *make({.url = "https://HOST:443/b", .headers = {}, .expires_at = {}});
  const auto c = *make({.url = "https://host:444/b", .headers = {}, .expires_at = {}});
  EXPECT_EQ(&a->host(), &b->host());
  EXPECT_NE(&a->host(), &c->host());
}

TEST(HttpHostRecord, StaysQuietAsLongAsTheLongestWait) {
  HttpHost host("http://host:80");
  const HttpHost::Clock::time_point now{std::chrono::hours(1)};
  host.quieten(now + std::chrono::seconds(5));
  host.quieten(now + std::chrono::seconds(2));
  EXPECT_EQ(host.quiet_until(), now + std::chrono::seconds(5));
  EXPECT_EQ(host.remembered(), 0U);
  host.remember(32);
  EXPECT_EQ(host.remembered(), 32U);
}

HttpHead head(std::string etag, std::string last_modified = {}, std::string version_id = {}) {
  HttpHead made;
  made.status = 206;
  made.etag = std::move(etag);
  made.last_modified = std::move(last_modified);
  made.version_id = std::move(version_id);
  return made;
}

void expect_changed(const HttpObject& object, const HttpHead& now, std::optional<std::uint64_t> total,
                    const std::string& what) {
  const auto same = object.check_version(now, total);
  ASSERT_FALSE(same.ok());
  EXPECT_EQ(same.error().code, ErrorCode::kSourceChanged);
  EXPECT_EQ(same.error().source, "name");
  EXPECT_NE(same.error().message.find(what), std::string::npos) << same.error().message;
}

TEST_F(HttpVersion, TheFirstResponsePins) {
  const auto object = plain();
  EXPECT_FALSE(object->size_known());
  EXPECT_EQ(object->size(), 0U);
  EXPECT_EQ(object->if_match(), "");
  EXPECT_FALSE(object->resumable());
  ASSERT_TRUE(object->check_version(head("\"a\"", "Monday", "v1"), 100).ok());
  EXPECT_TRUE(object->size_known());
  EXPECT_EQ(object->size(), 100U);
  EXPECT_EQ(object->if_match(), "\"a\"");
  EXPECT_TRUE(object->resumable());
  EXPECT_TRUE(object->check_version(head("\"a\"", "Monday", "v1"), 100).ok());
  EXPECT_TRUE(object->check_version(head("\"a\"", "Monday", "v1"), std::nullopt).ok());
  expect_changed(*object, head("\"b\"", "Monday", "v1"), 100, "ETag");
  expect_changed(*object, head("\"a\"", "Monday", "v2"), 100, "version");
  expect_changed(*object, head("\"a\"", "Monday", "v1"), 101, "size");
  EXPECT_TRUE(object->check_version(head("\"a\"", "Monday", "v1"), 100).ok()) << "a refused response pins nothing";
}

TEST_F(HttpVersion, AListingPinsBeforeTheFirstResponse) {
  const auto object = plain(100, "\"a\"");
  EXPECT_EQ(object->size(), 100U);
  EXPECT_EQ(object->if_match(), "\"a\"");
  EXPECT_TRUE(object->resumable());
  expect_changed(*object, head("\"b\""), 100, "ETag");
  expect_changed(*object, head("\"a\""), 99, "size");
  EXPECT_TRUE(object->check_version(head("\"a\"", "Monday", "v1"), 100).ok());
  expect_changed(*object, head("\"a\"", "Monday", "v2"), 100, "version");
}

TEST_F(HttpVersion, TheSizesThatDifferAreInTheError) {
  const auto same = plain(100)->check_version(head("\"a\""), 90);
  ASSERT_FALSE(same.ok());
  EXPECT_EQ(same.error().expected, 100U);
  EXPECT_EQ(same.error().got, 90U);
}

TEST_F(HttpVersion, WithoutAnETagTheModificationTimeCounts) {
  const auto object = plain();
  ASSERT_TRUE(object->check_version(head("", "Monday"), 100).ok());
  EXPECT_EQ(object->if_match(), "");
  EXPECT_TRUE(object->resumable());
  EXPECT_TRUE(object->check_version(head("", "Monday"), 100).ok());
  expect_changed(*object, head("", "Tuesday"), 100, "modification time");
  expect_changed(*object, head("", ""), 100, "modification time");
}

TEST_F(HttpVersion, AnETagThatIsLeftOutOnceIsCheckedByTheModificationTime) {
  const auto object = plain();
  ASSERT_TRUE(object->check_version(head("\"a\"", "Monday"), 100).ok());
  EXPECT_TRUE(object->check_version(head("", "Monday"), 100).ok());
  expect_changed(*object, head("", "Tuesday"), 100, "modification time");
}

TEST_F(HttpVersion, AVersionIdAloneIsEnough) {
  const auto object = plain();
  ASSERT_TRUE(object->check_version(head("", "", "1700000000"), 100).ok());
  EXPECT_TRUE(object->resumable());
  expect_changed(*object, head("", "", "1700000001"), 100, "version");
  expect_changed(*object, head("", "", ""), 100, "version");
}

TEST_F(HttpVersion, WithNothingToTellVersionsApartNothingIsResumed) {
  const auto object = plain();
  ASSERT_TRUE(object->check_version(head(""), 100).ok());
  EXPECT_FALSE(object->resumable());
  EXPECT_TRUE(object->check_version(head(""), 100).ok());
  expect_changed(*object, head(""), 101, "size");
}

// RFC 9110, section 13.1.1: a weak ETag never matches in If-Match, but it still tells versions apart here.
TEST_F(HttpVersion, AWeakETagIsComparedButNotSent) {
  const auto object = plain();
  ASSERT_TRUE(object->check_version(head("W/\"a\""), 100).ok());
  EXPECT_EQ(object->if_match(), "");
  EXPECT_TRUE(object->resumable());
  expect_changed(*object, head("W/\"b\""), 100, "ETag");
  EXPECT_EQ(plain(1, "not-quoted")->if_match(), "");
}

TEST_F(HttpRenewal, IsAskedForOnce) {
  const auto object = plain();
  EXPECT_EQ(renewals_->next(milliseconds(0)), nullptr);
  EXPECT_TRUE(object->ask_renewal(0));
  EXPECT_TRUE(object->ask_renewal(0));
  EXPECT_EQ(object->renewal(0), HttpObject::Renewal::kPending);
  EXPECT_EQ(renewals_->next(milliseconds(0)).get(), object.get());
  EXPECT_EQ(renewals_->next(milliseconds(0)), nullptr);
  object->renew({.url = "https://host/new", .headers = {"A: b"}, .expires_at = {}});
  EXPECT_EQ(object->renewal(0), HttpObject::Renewal::kDone);
  EXPECT_EQ(object->target().generation, 1U);
  EXPECT_EQ(object->target().url, "https://host/new");
  EXPECT_TRUE(object->ask_renewal(0)) << "whoever asks late takes what is there";
  EXPECT_EQ(renewals_->next(milliseconds(0)), nullptr);
  EXPECT_TRUE(object->ask_renewal(1));
  EXPECT_NE(renewals_->next(milliseconds(0)), nullptr);
}

TEST_F(HttpRenewal, AFailureIsKeptUntilSomebodyAsksAgain) {
  const auto object = plain();
  EXPECT_TRUE(object->ask_renewal(0));
  object->renewal_failed("no token");
  EXPECT_EQ(object->renewal(0), HttpObject::Renewal::kFailed);
  EXPECT_EQ(object->renewal_failure(), "no token");
  EXPECT_TRUE(object->ask_renewal(0));
  EXPECT_EQ(object->renewal(0), HttpObject::Renewal::kPending);
  EXPECT_EQ(object->renewal_failure(), "");
}

TEST_F(HttpRenewal, NewAccessKeepsTheRules) {
  const auto object = plain();
  EXPECT_TRUE(object->ask_renewal(0));
  object->renew({.url = "http://host/", .headers = {"X: SECRET"}, .expires_at = {}});
  EXPECT_EQ(object->renewal(0), HttpObject::Renewal::kFailed);
  EXPECT_NE(object->renewal_failure().find("plain HTTP"), std::string::npos);
  EXPECT_EQ(object->renewal_failure().find("SECRET"), std::string::npos);
  EXPECT_EQ(object->target().url, "https://host/a");
}

TEST_F(HttpRenewal, WithoutARenewerThereIsNone) {
  renewals_ = nullptr;
  const auto object = plain();
  EXPECT_FALSE(object->ask_renewal(0));
}

TEST_F(HttpRenewal, AnObjectThatIsGoneIsNoWork) {
  auto object = plain();
  EXPECT_TRUE(object->ask_renewal(0));
  object.reset();
  EXPECT_EQ(renewals_->next(milliseconds(0)), nullptr);
}

TEST_F(HttpRenewal, SomebodyWhoWaitsIsWoken) {
  const testing::Watchdog watchdog;
  const auto object = plain();
  std::shared_ptr<const HttpObject> got;
  std::thread waiter([&] { got = renewals_->next(testing::kPatience); });
  EXPECT_TRUE(object->ask_renewal(0));
  waiter.join();
  EXPECT_EQ(got.get(), object.get());
}

TEST_F(HttpRenewal, AccessEndsWhenItSays) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const auto expires = [&](std::optional<double> at) {
    return *make({.url = "https://host/", .headers = {}, .expires_at = at});
  };
  EXPECT_FALSE(expires(std::nullopt)->expires_within(1e9));
  EXPECT_TRUE(expires(now + 1000)->expires_within(2000));
  EXPECT_FALSE(expires(now + 1000)->expires_within(500));
  EXPECT_TRUE(expires(now - 1)->expires_within(0));
}

// From a listing as from an answer: what would end its header, or is no entity tag at all, is not sent.
TEST_F(HttpRenewal, OnlyEntityTagsAreSent) {
  const auto sent = [&](const std::string& etag) {
    return (*make({.url = "https://host/a", .headers = {}, .expires_at = {}}, {}, 10, etag))->if_match();
  };
  EXPECT_EQ(sent("\"abc-1\""), "\"abc-1\"");
  for (const std::string etag : {"", "abc", "W/\"abc\"", "\"", "\"a\"b\"", "\"1\"\r\nX-Evil: yes", "\"1\r\nX: y\"",
                                 "\"1\rX: y\"", "\"a b\"", "\"a\x7f\""}) {
    EXPECT_EQ(sent(etag), "") << etag;
  }
}

TEST_F(HttpRenewal, WhetherItWasRenewedJustNow) {
  const auto object = *make({.url = "https://host/a", .headers = {}, .expires_at = {}});
  EXPECT_FALSE(object->renewed_within(3600));
  object->renew({.url = "https://host/b", .headers = {}, .expires_at = {}});
  EXPECT_TRUE(object->renewed_within(3600));
  EXPECT_FALSE(object->renewed_within(0));
}

TEST_F(HttpRenewal, ARedirectIsRememberedAsLongAsItsAccess) {
  const auto object = *make({.url = "https://host/a", .headers = {"X: y"}, .expires_at = {}});
  auto first = object->target();
  EXPECT_TRUE(first.with_headers);
  EXPECT_FALSE(first.redirected);
  object->redirected(first, AddressScope::kGlobal, "https://other/b");
  EXPECT_EQ(object->target().url, "https://other/b");
  EXPECT_TRUE(object->target().redirected);
  EXPECT_FALSE(object->target().with_headers) << "another origin";
  object->redirected(first, AddressScope::kGlobal, "https://HOST:443/c");
  EXPECT_TRUE(object->target().with_headers) << "the same origin";
  const auto old = object->target();
  object->redirected(first, AddressScope::kGlobal, "https://other/b");
  object->forget_redirect(old);
  EXPECT_EQ(object->target().url, "https://other/b") << "another read has found the new way already";
  object->forget_redirect(object->target());
  EXPECT_EQ(object->target().url, "https://host/a");

  object->redirected(first, AddressScope::kGlobal, "https://other/b");
  object->renew({.url = "https://host/new", .headers = {}, .expires_at = {}});
  EXPECT_EQ(object->target().url, "https://host/new");
  object->redirected(first, AddressScope::kGlobal, "https://other/late");
  EXPECT_EQ(object->target().url, "https://host/new") << "that was where the old access led";
}

// What leads to an object decides which addresses it may be at.
TEST_F(HttpRenewal, WhoLedThereIsKnown) {
  const auto object = *make({.url = "https://host/a", .headers = {}, .expires_at = {}});
  const auto first = object->target();
  EXPECT_EQ(first.led_from, std::nullopt);
  object->redirected(first, AddressScope::kLinkLocal, "https://other/b");
  EXPECT_EQ(object->target().led_from, AddressScope::kLinkLocal);
  object->redirected(first, AddressScope::kGlobal, "https://other/b");
  EXPECT_EQ(object->target().led_from, AddressScope::kGlobal);
  object->forget_redirect(object->target());
  EXPECT_EQ(object->target().led_from, std::nullopt);
  object->renew({.url = "https://host/b", .headers = {}, .expires_at = {}, .redirected_by = "https://hub/"});
  EXPECT_EQ(object->target().led_from, AddressScope::kGlobal);
  EXPECT_FALSE(object->target().redirected) << "it is the access itself";
  object->renew({.url = "https://host/b", .headers = {}, .expires_at = {}, .redirected_by = "http://127.0.0.1:9/"});
  EXPECT_EQ(object->target().led_from, AddressScope::kLoopback);
}

TEST_F(HttpAccessRules, WhoRedirectsFromTlsToPlainHttpIsNotFollowed) {
  const auto made = make({.url = "http://host/a", .headers = {}, .expires_at = {}, .redirected_by = "https://hub/a"});
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kProtocol);
  EXPECT_EQ(made.error().source, "name");
  EXPECT_NE(made.error().message.find("from https to plain http"), std::string::npos);
  for (const char* by : {"http://hub/a", ""}) {
    EXPECT_TRUE(make({.url = "http://host/a", .headers = {}, .expires_at = {}, .redirected_by = by}).ok()) << by;
  }
}

}  // namespace
}  // namespace weightstream
