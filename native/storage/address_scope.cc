#include "storage/address_scope.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>

#include "storage/url.h"

namespace weightstream {
namespace {

using Bytes = std::span<const std::uint8_t>;

bool begins_with(Bytes address, Bytes prefix) { return std::equal(prefix.begin(), prefix.end(), address.begin()); }

AddressScope scope_of_v4(Bytes address) {
  // Metadata services outside of 169.254.0.0/16: of Azure and of Alibaba.
  constexpr std::array<std::uint8_t, 4> kAzure{168, 63, 129, 16};
  constexpr std::array<std::uint8_t, 4> kAlibaba{100, 100, 100, 200};
  constexpr std::array<std::uint8_t, 2> kLinkLocal{169, 254};
  if (address[0] == 127 || address[0] == 0) return AddressScope::kLoopback;  // 0.0.0.0 connects to this machine
  const bool local = begins_with(address, kLinkLocal) || begins_with(address, kAzure) || begins_with(address, kAlibaba);
  return local ? AddressScope::kLinkLocal : AddressScope::kGlobal;
}

AddressScope scope_of_v6(Bytes address) {
  constexpr std::array<std::uint8_t, 15> kZeros{};  // :: and ::1
  constexpr std::array<std::uint8_t, 12> kMapped{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
  // Metadata services outside of fe80::/10: of Amazon (fd00:ec2::/32) and of Google (fd20:ce::254).
  constexpr std::array<std::uint8_t, 4> kAmazon{0xfd, 0x00, 0x0e, 0xc2};
  constexpr std::array<std::uint8_t, 4> kGoogle{0xfd, 0x20, 0x00, 0xce};
  if (begins_with(address, kMapped)) return scope_of_v4(address.subspan(kMapped.size()));
  if (begins_with(address, kZeros) && address[15] <= 1) return AddressScope::kLoopback;
  const bool local = (address[0] == 0xfe && (address[1] & 0xc0) == 0x80) || begins_with(address, kAmazon) ||
                     begins_with(address, kGoogle);
  return local ? AddressScope::kLinkLocal : AddressScope::kGlobal;
}

}  // namespace

AddressScope scope_of(const sockaddr& address) {
  if (address.sa_family == AF_INET) {
    std::array<std::uint8_t, 4> bytes{};
    std::memcpy(bytes.data(), reinterpret_cast<const char*>(&address) + offsetof(sockaddr_in, sin_addr), bytes.size());
    return scope_of_v4(bytes);
  }
  if (address.sa_family == AF_INET6) {
    std::array<std::uint8_t, 16> bytes{};
    std::memcpy(bytes.data(), reinterpret_cast<const char*>(&address) + offsetof(sockaddr_in6, sin6_addr),
                bytes.size());
    return scope_of_v6(bytes);
  }
  return AddressScope::kGlobal;
}

AddressScope scope_of_host(const std::string& url) {
  std::string host = Url(url).part(CURLUPART_HOST);
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  if (host.ends_with('.')) host.pop_back();
  if (host == "localhost" || host.ends_with(".localhost")) return AddressScope::kLoopback;
  std::array<std::uint8_t, 16> bytes{};
  if (inet_pton(AF_INET, host.c_str(), bytes.data()) == 1) return scope_of_v4(Bytes(bytes).first(4));
  if (host.size() > 2 && host.front() == '[') {
    host = host.substr(1, host.size() - 2);
    host = host.substr(0, host.find('%'));  // a zone
    if (inet_pton(AF_INET6, host.c_str(), bytes.data()) == 1) return scope_of_v6(bytes);
  }
  return AddressScope::kGlobal;
}

}  // namespace weightstream
