#include "scripted_feed.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "base/checked.h"

namespace weightstream::testing {
namespace {

constexpr std::uint64_t kAlignment = 4096;

}  // namespace

ScriptedFeed::ScriptedFeed(const Source& source, std::uint64_t size, std::uint64_t read_bytes)
    : size_(size),
      memory_(static_cast<std::byte*>(std::aligned_alloc(kAlignment, align_up(size + 1, kAlignment)))),
      allowed_(SIZE_MAX) {
  for (std::uint64_t begin = 0; begin < size; begin += read_bytes) {
    const std::uint64_t wanted = std::min(read_bytes, size - begin);
    requests_.push_back({.source = &source,
                         .offset = begin,
                         .length = align_up(wanted, kAlignment),
                         .wanted = wanted,
                         .into = memory_.get() + begin,
                         .id = static_cast<std::uint32_t>(requests_.size())});
  }
  results_.resize(requests_.size());
}

std::optional<ReadRequest> ScriptedFeed::pull() {
  std::unique_lock lock(mutex_);
  changed_.notify_all();
  if (next_ >= std::min(allowed_, requests_.size())) {
    ++empty_pulls_;
    const auto call = std::exchange(on_empty_pull_, nullptr);
    lock.unlock();
    if (call) call();
    return std::nullopt;
  }
  most_in_flight_ = std::max(most_in_flight_, next_ + 1 - reported_);
  return requests_[next_++];
}

void ScriptedFeed::complete(const ReadRequest& request, Result<ReadEffort> result) {
  const std::lock_guard lock(mutex_);
  EXPECT_LT(request.id, next_) << "reported, but never handed out";
  EXPECT_FALSE(results_[request.id].has_value()) << "request " << request.id << " was reported twice";
  results_[request.id].emplace(std::move(result));
  ++reported_;
  changed_.notify_all();
}

void ScriptedFeed::allow(std::size_t requests) {
  const std::lock_guard lock(mutex_);
  allowed_ = requests;
}

bool ScriptedFeed::wait_for_reports(std::size_t reports) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return reported_ >= reports; });
}

bool ScriptedFeed::wait_for_empty_pulls(std::size_t pulls) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return empty_pulls_ >= pulls; });
}

void ScriptedFeed::on_empty_pull(std::function<void()> call) {
  const std::lock_guard lock(mutex_);
  on_empty_pull_ = std::move(call);
}

std::size_t ScriptedFeed::empty_pulls() const {
  const std::lock_guard lock(mutex_);
  return empty_pulls_;
}

bool ScriptedFeed::wait_for_pulls(std::size_t pulls) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return next_ >= pulls; });
}

std::size_t ScriptedFeed::pulled() const {
  const std::lock_guard lock(mutex_);
  return next_;
}

std::size_t ScriptedFeed::reported() const {
  const std::lock_guard lock(mutex_);
  return reported_;
}

std::size_t ScriptedFeed::most_in_flight() const {
  const std::lock_guard lock(mutex_);
  return most_in_flight_;
}

std::uint64_t ScriptedFeed::retries() const {
  const std::lock_guard lock(mutex_);
  std::uint64_t retries = 0;
  for (const auto& result : results_) {
    if (result && result->ok()) retries += (*result)->retries;
  }
  return retries;
}

std::optional<Error> ScriptedFeed::error(std::size_t i) const {
  const std::lock_guard lock(mutex_);
  if (!results_[i] || results_[i]->ok()) return std::nullopt;
  return results_[i]->error();
}

std::vector<Error> ScriptedFeed::errors() const {
  const std::lock_guard lock(mutex_);
  std::vector<Error> errors;
  for (const auto& result : results_) {
    if (result && !result->ok()) errors.push_back(result->error());
  }
  return errors;
}

}  // namespace weightstream::testing
