// Objects on a scripted server, and reads of them through the http reader.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "http_test_server.h"
#include "process_state.h"
#include "scripted_feed.h"
#include "storage/http_object.h"
#include "storage/http_reader.h"

namespace weightstream::testing {

// Short waits, no hedges, and time limits that no test meets unless it sets them.
[[nodiscard]] HttpPolicy quick();
// `count` connections on one thread or two.
[[nodiscard]] HttpReaderOptions connections(std::uint32_t count);

class HttpReaderTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kSeed = 21;
  static constexpr std::uint64_t kRead = 256 << 10;
  static constexpr std::uint64_t kSize = 6 * kRead + 12345;  // what follows in the last page is guarded

  HttpReaderTest();

  // The object at `path`, as a listing describes it: kSize bytes with the ETag "1".
  std::shared_ptr<HttpObject> listed(HttpPolicy policy = quick(), const std::string& path = "/o");
  // The same, before anything is known of it.
  std::shared_ptr<HttpObject> unknown(HttpPolicy policy = quick(), const std::string& path = "/o");
  std::shared_ptr<HttpObject> object(HttpAccess access, HttpPolicy policy, std::optional<std::uint64_t> size,
                                     std::string etag);

  // Fills the feed's memory with something that the object does not have, and the memory after it.
  static void guard(ScriptedFeed& feed);
  // Whether nothing was written to [begin, end) of the feed's memory.
  static bool untouched(const ScriptedFeed& feed, std::uint64_t begin, std::uint64_t end);
  // Whether nothing was written after the last byte that was wanted.
  static bool untouched_after(const ScriptedFeed& feed);

  // Reads everything and stops. Every request is reported by then.
  void run(ScriptedFeed& feed, HttpReaderOptions options = connections(4));
  // Reads the object whole, in one read, or in reads of `bytes`, and expects the right bytes and nothing else.
  void expect_right(const HttpObject& object, std::uint64_t bytes = UINT64_MAX,
                    HttpReaderOptions options = connections(4));
  // Reads the object in one read and returns the error that is expected.
  Error expect_error(const HttpObject& object, ErrorCode code, std::string_view words);

  Watchdog watchdog_;
  std::unique_ptr<HttpTestServer> server_ = HttpTestServer::make();
  HttpHosts hosts_;
  std::shared_ptr<Renewals> renewals_;  // null until a test has somebody who renews
  LogSink log_;
  HttpConnections connections_;
};

}  // namespace weightstream::testing
