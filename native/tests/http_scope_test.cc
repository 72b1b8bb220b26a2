// Whom addresses mean, and which of them a redirect may lead to.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>

#include <string>

#include "storage/address_scope.h"

namespace weightstream {
namespace {

AddressScope scope_of_text(const std::string& address) {
  sockaddr_storage storage{};
  auto* v4 = reinterpret_cast<sockaddr_in*>(&storage);
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&storage);
  if (inet_pton(AF_INET, address.c_str(), &v4->sin_addr) == 1) {
    storage.ss_family = AF_INET;
  } else {
    storage = {};
    storage.ss_family = AF_INET6;
    EXPECT_EQ(inet_pton(AF_INET6, address.c_str(), &v6->sin6_addr), 1) << address;
  }
  return scope_of(reinterpret_cast<const sockaddr&>(storage));
}

void expect_scope(AddressScope scope, std::initializer_list<const char*> addresses) {
  for (const std::string address : addresses) {
    EXPECT_EQ(scope_of_text(address), scope) << address;
    const std::string host = address.find(':') == std::string::npos ? address : "[" + address + "]";
    EXPECT_EQ(scope_of_host("https://user:password@" + host + ":8443/a?b=//127.0.0.1/"), scope) << host;
  }
}

TEST(AddressScopes, OfAddresses) {
  expect_scope(AddressScope::kLoopback,
               {"127.0.0.1", "127.255.255.254", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0"});
  expect_scope(AddressScope::kLinkLocal,
               {"169.254.169.254", "169.254.170.2", "169.254.0.0", "fe80::1", "febf:ffff::1", "::ffff:169.254.169.254",
                "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "168.63.129.16", "100.100.100.200"});
  // Private networks among them: that is where stores in the same rack are.
  expect_scope(AddressScope::kGlobal,
               {"1.1.1.1", "126.255.255.255", "128.0.0.1", "169.253.255.255", "169.255.0.0", "10.0.0.1", "172.16.0.1",
                "192.168.1.1", "100.64.0.1", "168.63.129.17", "::2", "2001:db8::1", "fec0::1", "fe00::1", "fd00::1",
                "fd00:ec3::254", "::ffff:10.0.0.1", "1::ffff:127.0.0.1"});
}

TEST(AddressScopes, OfHosts) {
  for (const char* url : {"http://localhost/", "http://LocalHost:9000/a", "http://localhost./", "http://a.localhost/",
                          "http://127.1/", "http://0x7f.0.0.1/", "http://2130706433/"}) {
    EXPECT_EQ(scope_of_host(url), AddressScope::kLoopback) << url;
  }
  for (const char* url : {"http://2852039166/latest", "http://0xa9.0xfe.0xa9.0xfe/", "http://[fe80::1%25eth0]/"}) {
    EXPECT_EQ(scope_of_host(url), AddressScope::kLinkLocal) << url;
  }
  for (const char* url : {"http://localhost.example/", "http://notlocalhost/", "http://127.0.0.1.example/", "not a URL",
                          "", "http://metadata.example/"}) {
    EXPECT_EQ(scope_of_host(url), AddressScope::kGlobal) << url;
  }
}

TEST(AddressScopes, NobodyLeadsWhereItIsNotItself) {
  using enum AddressScope;
  for (const auto from : {kGlobal, kLoopback, kLinkLocal}) {
    EXPECT_TRUE(may_lead_to(from, kGlobal));
    EXPECT_TRUE(may_lead_to(from, from));
  }
  EXPECT_FALSE(may_lead_to(kGlobal, kLoopback));
  EXPECT_FALSE(may_lead_to(kGlobal, kLinkLocal));
  EXPECT_FALSE(may_lead_to(kLoopback, kLinkLocal));
  EXPECT_FALSE(may_lead_to(kLinkLocal, kLoopback));
}

}  // namespace
}  // namespace weightstream
