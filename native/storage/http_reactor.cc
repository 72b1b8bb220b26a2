#include "storage/http_reactor.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <iterator>
#include <new>
#include <string>
#include <utility>

#include "base/core_thread.h"

namespace weightstream {
namespace {

constexpr auto kLongestWait = std::chrono::milliseconds(250);
constexpr std::size_t kEvents = 64;

Error system_error(const char* what, int error) {
  return {
      .code = ErrorCode::kStorage, .message = std::string(what) + ": " + std::strerror(error), .system_errno = error};
}

}  // namespace

std::optional<double> HttpReaderState::outlier_seconds() const {
  const std::lock_guard lock(mutex_);
  if (reads_ < 8) return std::nullopt;
  auto sorted = durations_;
  const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(std::min(reads_, kSample));
  const auto middle = sorted.begin() + (end - sorted.begin()) / 2;
  std::nth_element(sorted.begin(), middle, end);
  return 3 * *middle;
}

void HttpReaderState::took(double seconds) noexcept {
  const std::lock_guard lock(mutex_);
  durations_[reads_++ % kSample] = seconds;
}

HttpReactor::~HttpReactor() { stop(); }

Status HttpReactor::start(ReadFeed& feed) {
  feed_ = &feed;
  epoll_ = FileDescriptor(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_) return system_error("epoll_create1", errno);
  event_ = FileDescriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event_) return system_error("eventfd", errno);
  epoll_event event{.events = EPOLLIN, .data = {.fd = event_.get()}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, event_.get(), &event) != 0) return system_error("epoll_ctl", errno);
  pool_ = connections_.take();
  if (!pool_) return system_error("libcurl", ENOMEM);
  curl_multi_setopt(pool_->multi(), CURLMOPT_SOCKETFUNCTION, &HttpReactor::on_socket);
  curl_multi_setopt(pool_->multi(), CURLMOPT_SOCKETDATA, this);
  curl_multi_setopt(pool_->multi(), CURLMOPT_TIMERFUNCTION, &HttpReactor::on_timer);
  curl_multi_setopt(pool_->multi(), CURLMOPT_TIMERDATA, this);
  return start_core_thread(thread_, "ws-http", [this] { run(); });
}

void HttpReactor::wake() {
  woken_.store(true, std::memory_order_release);
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(event_.get(), &one, sizeof one);  // full means it is awake already
}

void HttpReactor::ask_to_stop() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_release);
  wake();
}

void HttpReactor::stop() {
  ask_to_stop();
  if (thread_.joinable()) thread_.join();
  if (!pool_) return;
  curl_multi_setopt(pool_->multi(), CURLMOPT_SOCKETFUNCTION, nullptr);
  curl_multi_setopt(pool_->multi(), CURLMOPT_TIMERFUNCTION, nullptr);
  connections_.give_back(std::move(pool_));
}

// What libcurl waits for while it makes a connection.
int HttpReactor::on_socket(CURL* /*easy*/, curl_socket_t socket, int what, void* self, void* known) noexcept {
  auto* reactor = static_cast<HttpReactor*>(self);
  const int epoll = reactor->epoll_.get();
  if (what == CURL_POLL_REMOVE) {
    ::epoll_ctl(epoll, EPOLL_CTL_DEL, socket, nullptr);  // closed by now, perhaps
    curl_multi_assign(reactor->pool_->multi(), socket, nullptr);
    return 0;
  }
  epoll_event event{.events = 0, .data = {.fd = socket}};
  if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
  if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
  if (known == nullptr || ::epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event) != 0) {
    if (::epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event) != 0 && errno == EEXIST) {
      ::epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event);
    }
    curl_multi_assign(reactor->pool_->multi(), socket, reactor);
  }
  return 0;
}

int HttpReactor::on_timer(CURLM* /*multi*/, long milliseconds, void* self) noexcept {
  auto* reactor = static_cast<HttpReactor*>(self);
  if (milliseconds < 0) {
    reactor->timer_.reset();
  } else {
    reactor->timer_ = Clock::now() + std::chrono::milliseconds(milliseconds);
  }
  return 0;
}

void HttpReactor::run() {
  while (!stopping_.load(std::memory_order_acquire)) {
    try {
      turn();
    } catch (const std::bad_alloc&) {
      abandon();  // what runs cannot go on; what comes may
    }
  }
  abandon();
}

std::uint32_t HttpReactor::places() const {
  const auto limit = state_.ramp.limit();
  return limit * (index_ + 1) / state_.reactors - limit * index_ / state_.reactors;
}

void HttpReactor::turn() {
  auto now = Clock::now();
  pull_reads(now);
  auto until = now + kLongestWait;
  for (auto running = reads_.begin(); running != reads_.end();) {
    const auto here = running++;
    step(*here, now);
    if (here->read->result()) {
      finish(here, now);
      until = now;  // there is a place to fill
    } else {
      until = std::min(until, here->read->next_step());
      for (const auto* attempt : {here->main.get(), here->hedge.get()}) {
        if (attempt != nullptr && attempt->ready()) until = now;
      }
    }
  }
  if (timer_) until = std::min(until, *timer_);
  wait(until);
  now = Clock::now();
  advance_ready(now);
  if (timer_ && *timer_ <= now) {
    timer_.reset();
    int running = 0;
    curl_multi_socket_action(pool_->multi(), CURL_SOCKET_TIMEOUT, 0, &running);
  }
  collect(now);
  const bool busy = !state_.starved.load(std::memory_order_relaxed) &&
                    state_.running.load(std::memory_order_relaxed) + state_.reactors >= state_.ramp.limit();
  state_.ramp.received(std::exchange(arrived_, 0), busy, now);
}

void HttpReactor::pull_reads(Clock::time_point now) {
  while (reads_.size() < places()) {
    // After an empty pull the feed wakes us when there is more.
    if (!woken_.load(std::memory_order_acquire)) return;
    woken_.store(false, std::memory_order_release);
    std::optional<ReadRequest> request;
    try {
      request = feed_->pull();
    } catch (...) {
      woken_.store(true, std::memory_order_release);  // there may be more, and nobody wakes us for it
      throw;
    }
    if (!request) {
      // Somebody may have woken us between the empty pull and here: then the flag is set again.
      state_.starved.store(true, std::memory_order_relaxed);
      return;
    }
    woken_.store(true, std::memory_order_release);
    state_.starved.store(false, std::memory_order_relaxed);
    ++state_.running;
    try {
      reads_.emplace_back(std::make_unique<HttpRead>(*request, now));
    } catch (const std::bad_alloc&) {
      --state_.running;
      feed_->complete(*request, Error{.code = ErrorCode::kStorage, .message = "out of memory", .system_errno = ENOMEM});
    }
  }
}

void HttpReactor::step(Running& running, Clock::time_point now) {
  if (running.main) {
    watch(running, now);
  } else if (running.read->wants_attempt(now)) {
    begin(running, running.main, running.read->make_attempt(arrived_));
  }
}

// Looks after the time limits of what runs, and asks a second connection for what takes unusually long.
void HttpReactor::watch(Running& running, Clock::time_point now) {
  if (running.read->next_step() > now) return;
  for (auto* attempt : {running.main.get(), running.hedge.get()}) {
    if (attempt == nullptr) continue;
    if (auto late = running.read->check(*attempt, now)) {
      end(running, *attempt, std::move(*late), now);
      if (running.read->result() || !running.main) return;
    }
  }
  const double hedge_seconds = running.read->object().options().policy.hedge_seconds;
  if (running.hedge || hedge_seconds <= 0 || !running.read->can_hedge()) return;
  const double age = std::chrono::duration<double>(now - running.read->begun()).count();
  const auto outlier = state_.outlier_seconds();
  if (age < hedge_seconds || !outlier || age < *outlier) return;
  state_.log.write(LogLevel::kDebug, running.read->object().name() + ": asking a second connection for a slow range");
  begin(running, running.hedge, running.read->make_hedge(*running.main, arrived_));
}

void HttpReactor::begin(Running& running, std::unique_ptr<HttpAttempt>& slot, std::unique_ptr<HttpAttempt> attempt) {
  const HttpObject& object = running.read->object();
  if (!object.options().verify && object.first_use()) {
    state_.log.write_once("verify", LogLevel::kWarning, object.name() + ": the server's certificate is not verified");
  }
  slot = std::move(attempt);
  if (auto begun = slot->begin(*pool_); !begun) {
    slot.reset();
    running.read->give_up(std::move(begun).error());
  }
}

// Asks again what nobody heard.
void HttpReactor::restart(Running& running, HttpAttempt& attempt) {
  release(attempt);
  if (auto begun = attempt.begin(*pool_); !begun) running.read->give_up(std::move(begun).error());
}

// Moves what goes without waiting, and says what to wait for. The attempt, and its read, may be gone after it.
void HttpReactor::advance(HttpAttempt& attempt, Clock::time_point now) {
  auto verdict = attempt.advance(scratch_);
  Status listens = Ok{};
  if (!verdict) {
    listens = listen_to(attempt);
    if (listens) return;
  }
  const auto* read = static_cast<HttpRead*>(attempt.owner());
  const auto running =
      std::find_if(reads_.begin(), reads_.end(), [&](const Running& one) { return one.read.get() == read; });
  if (!listens) {
    running->read->give_up(std::move(listens).error());
  } else if (attempt.met_a_stale_connection()) {
    restart(*running, attempt);
  } else {
    end(*running, attempt, std::move(*verdict), now);
  }
  if (running->read->result()) finish(running, now);
}

void HttpReactor::advance_ready(Clock::time_point now) {
  for (auto running = reads_.begin(); running != reads_.end();) {
    const auto here = running++;
    // One ends the read, perhaps, and the other with it: the next turn sees what is left.
    if (here->main && here->main->ready()) {
      advance(*here->main, now);
    } else if (here->hedge && here->hedge->ready()) {
      advance(*here->hedge, now);
    }
  }
}

Status HttpReactor::listen_to(HttpAttempt& attempt) {
  const int socket = attempt.connection()->socket();
  const std::uint32_t events = attempt.sending() ? EPOLLIN | EPOLLOUT : EPOLLIN;
  auto& listening = sockets_.try_emplace(socket, Listening{&attempt, 0}).first->second;
  if (listening.events == events) return Ok{};
  const bool known = listening.events != 0;
  listening.events = events;
  epoll_event event{.events = events, .data = {.fd = socket}};
  if (::epoll_ctl(epoll_.get(), known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket, &event) == 0) return Ok{};
  if (!known && errno == EEXIST && ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, socket, &event) == 0) return Ok{};
  return system_error("epoll_ctl", errno);
}

void HttpReactor::release(HttpAttempt& attempt) {
  if (!attempt.connecting() && sockets_.erase(attempt.connection()->socket()) > 0) {
    ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, attempt.connection()->socket(), nullptr);
  }
  attempt.release(*pool_);
}

void HttpReactor::drop(std::unique_ptr<HttpAttempt>& attempt) {
  if (!attempt) return;
  release(*attempt);
  attempt.reset();
}

// Connections that libcurl has made, or could not make.
void HttpReactor::collect(Clock::time_point now) {
  int left = 0;
  while (const CURLMsg* message = curl_multi_info_read(pool_->multi(), &left)) {
    if (message->msg != CURLMSG_DONE) continue;
    HttpConnection* connection = nullptr;
    curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &connection);
    auto& attempt = *static_cast<HttpAttempt*>(connection->user);
    attempt.connected(connection->connected(message->data.result));
    advance(attempt, now);
  }
}

// An attempt ended, or is ended here.
void HttpReactor::end(Running& running, HttpAttempt& attempt, Verdict verdict, Clock::time_point now) {
  const bool is_hedge = running.hedge.get() == &attempt;
  const bool alone = !(running.main && running.hedge);
  if (attempt.first_byte()) state_.ramp.first_byte(*attempt.first_byte() - attempt.begun());
  const std::string why = verdict.outcome == Outcome::kBody ? std::string() : verdict.error.message;
  const auto consequence = running.read->ended(attempt, std::move(verdict), alone, now);
  if (consequence.throttled) state_.ramp.throttled(now);
  if (consequence.retried) {
    state_.log.write(LogLevel::kDebug, running.read->object().name() + ": " + why + "; trying again");
  }
  drop(is_hedge ? running.hedge : running.main);
  if (!is_hedge && running.hedge) running.main = std::move(running.hedge);  // it goes on alone
}

void HttpReactor::finish(std::list<Running>::iterator running, Clock::time_point now) {
  drop(running->main);
  drop(running->hedge);
  auto result = std::move(*running->read->result());
  if (result.ok()) state_.took(std::chrono::duration<double>(now - running->read->begun()).count());
  const ReadRequest request = running->read->request();
  reads_.erase(running);
  --state_.running;
  feed_->complete(request, std::move(result));
}

void HttpReactor::wait(Clock::time_point until) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  std::array<epoll_event, kEvents> events;
  const int count = ::epoll_wait(epoll_.get(), events.data(), kEvents, static_cast<int>(std::max<long>(left, 0)));
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<std::size_t>(i)];
    if (event.data.fd == event_.get()) {
      std::uint64_t wakes = 0;
      [[maybe_unused]] const auto got = ::read(event_.get(), &wakes, sizeof wakes);
      continue;
    }
    if (const auto made = sockets_.find(event.data.fd); made != sockets_.end()) {
      advance(*made->second.attempt, Clock::now());
      continue;
    }
    int what = 0;
    if ((event.events & EPOLLIN) != 0) what |= CURL_CSELECT_IN;
    if ((event.events & EPOLLOUT) != 0) what |= CURL_CSELECT_OUT;
    if ((event.events & (EPOLLERR | EPOLLHUP)) != 0) what |= CURL_CSELECT_ERR;
    int running = 0;
    curl_multi_socket_action(pool_->multi(), event.data.fd, what, &running);
    // At once: until it sends, libcurl takes a connection for an idle one, and may clear it away.
    collect(Clock::now());
  }
}

void HttpReactor::abandon() noexcept {
  const bool closing = stopping_.load(std::memory_order_acquire);
  while (!reads_.empty()) {
    auto& read = *reads_.front().read;
    try {
      if (closing && !read.result()) {
        read.give_up({.code = ErrorCode::kClosed, .message = "the stream was closed while this range was being read"});
      }
    } catch (const std::bad_alloc&) {  // said below
    }
    if (!read.result()) read.give_up_without_memory();
    finish(reads_.begin(), Clock::now());
  }
}

}  // namespace weightstream
