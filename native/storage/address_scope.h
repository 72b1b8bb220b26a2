// Whom an address means: some machine, or only whoever asks. A redirect is a stranger's word, and must not make this
// machine ask itself, or the metadata service that hands this machine's credentials to whoever asks from here.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>

namespace weightstream {

enum class AddressScope : std::uint8_t {
  kGlobal,     // a machine, whoever asks; private networks among them
  kLoopback,   // this machine
  kLinkLocal,  // this machine's link, where clouds have their metadata service
};

[[nodiscard]] AddressScope scope_of(const sockaddr& address);
// As far as the host of a URL shows it: of an address, or of "localhost". Other names count as global.
[[nodiscard]] AddressScope scope_of_host(const std::string& url);

// Whether a server of scope `from` may send on to one of scope `to`.
[[nodiscard]] constexpr bool may_lead_to(AddressScope from, AddressScope to) {
  return to == AddressScope::kGlobal || to == from;
}

}  // namespace weightstream
