// The numbers of the http reader: how often, how long, how slow. Each can be set; docs/design/remote.md has the table.
#pragma once

#include <cstdint>

namespace weightstream {

struct HttpPolicy {
  std::uint32_t max_attempts = 8;      // requests for one read that bring little before it fails
  std::uint32_t connect_attempts = 3;  // of them, those that did not even get a connection
  std::uint32_t max_redirects = 5;
  double connect_timeout = 10;     // seconds, TCP and TLS together
  double backoff = 0.2;            // seconds before the second try of a request that a server turned away; doubles
  double backoff_cap = 10;         // seconds; also the most that Retry-After gets
  double stall_seconds = 10;       // an attempt that brings less than stall_bytes in this time is given up
  std::uint64_t stall_bytes = 64 << 10;
  double first_byte_seconds = 30;  // the longest wait for the head of a response
  double first_answer_seconds = 25;  // the longest a read waits for a host that has not answered this process yet
  double deadline = 600;           // seconds for one read, attempts and waits together
  double hedge_seconds = 2;        // a read that takes longer, and is an outlier, is asked for twice; 0: never
};

// An attempt that brought this much was worth it: it does not count against max_attempts.
inline constexpr std::uint64_t kWorthwhileBytes = std::uint64_t{1} << 20;

}  // namespace weightstream
