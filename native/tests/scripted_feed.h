// A feed for tests of readers: hands out the requests of a list, keeps what is reported, and checks the contract: each
// request is reported exactly once.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "process_state.h"
#include "storage/reader.h"

namespace weightstream::testing {

class ScriptedFeed final : public ReadFeed {
 public:
  // Cuts `size` bytes of `source` into requests of `read_bytes`; their memory belongs to the feed.
  ScriptedFeed(const Source& source, std::uint64_t size, std::uint64_t read_bytes);

  std::optional<ReadRequest> pull() override;
  void complete(const ReadRequest& request, Result<ReadEffort> result) override;

  // Only the first `requests` are handed out until more are allowed; at first all are.
  void allow(std::size_t requests);
  // Waits until `reports` requests were reported; false when that takes too long.
  [[nodiscard]] bool wait_for_reports(std::size_t reports);
  // Waits until so many pulls, since the beginning, found nothing.
  [[nodiscard]] bool wait_for_empty_pulls(std::size_t pulls);
  // Called once by the next pull that finds nothing, before it returns.
  void on_empty_pull(std::function<void()> call);
  [[nodiscard]] bool wait_for_pulls(std::size_t pulls);

  [[nodiscard]] std::size_t size() const { return requests_.size(); }
  [[nodiscard]] const ReadRequest& request(std::size_t i) const { return requests_[i]; }
  // The bytes of the whole source, as far as they were read. Once nothing is in flight any more.
  [[nodiscard]] std::span<const std::byte> bytes() const { return {memory_.get(), size_}; }
  [[nodiscard]] std::size_t pulled() const;
  [[nodiscard]] std::size_t empty_pulls() const;
  [[nodiscard]] std::size_t reported() const;
  [[nodiscard]] std::size_t most_in_flight() const;
  [[nodiscard]] std::uint64_t retries() const;
  [[nodiscard]] std::optional<Error> error(std::size_t i) const;
  [[nodiscard]] std::vector<Error> errors() const;

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::uint64_t size_;
  std::unique_ptr<std::byte, Free> memory_;
  std::vector<ReadRequest> requests_;

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::size_t allowed_;
  std::size_t next_ = 0;
  std::size_t reported_ = 0;
  std::size_t most_in_flight_ = 0;
  std::size_t empty_pulls_ = 0;
  std::function<void()> on_empty_pull_;
  std::vector<std::optional<Result<ReadEffort>>> results_;
};

}  // namespace weightstream::testing
