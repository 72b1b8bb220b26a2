#include "engine/lanes.h"

#include <algorithm>
#include <iterator>

namespace weightstream {

Status Lanes::open(const Plan& plan, const StreamOptions& options, Lane::Owner& owner) {
  const bool asks_gds = options.backend == Backend::kGds;
  LocalProbe probe(asks_gds ? Backend::kAuto : options.backend);
  const bool on_device = lands_on_device(options, plan);
  const bool only_read = plan.reads.size() == 1;
  GdsProbe gds(on_device ? &*options.device : nullptr,
               only_read ? "a single read lands in host memory" : "these reads land in host memory");
  for (const auto& [source, range] : plan.extents) {
    if (of_source_[source] != nullptr) continue;
    auto choice = asks_gds ? choose_gds(source, only_read, probe, gds) : choose(source, only_read, probe);
    if (!choice) return std::move(choice).error();
    reasons_.emplace_back(source, choice->reason);
    log_.write(LogLevel::kDebug, sources_.at(source).name() + ": " + choice->reason);
    if (choice->fallback) log_.write_once(choice->reason, LogLevel::kInfo, choice->reason);
    const auto same_kind = [&](const auto& lane) { return lane->kind == choice->kind; };
    auto lane = std::find_if(lanes_.begin(), lanes_.end(), same_kind);
    if (lane == lanes_.end()) {
      auto reader = make_reader(choice->kind, sources_.remote(source), options);
      lanes_.push_back(std::make_unique<Lane>(owner, choice->kind, std::move(reader)));
      lane = std::prev(lanes_.end());
    }
    of_source_[source] = lane->get();
  }
  return Ok{};
}

Result<ReaderChoice> Lanes::choose(std::uint32_t source, bool only_read, LocalProbe& probe) const {
  const LocalFile* file = sources_.local(source);
  if (file == nullptr) return ReaderChoice{ReaderKind::kHttp, "object: ranges over HTTP/1.1, many connections"};
  return only_read ? probe.choose_for_one_read(*file) : probe.choose(*file);
}

Result<ReaderChoice> Lanes::choose_gds(std::uint32_t source, bool only_read, LocalProbe& probe, GdsProbe& gds) {
  auto verdict = gds.look(sources_.local(source));
  if (!verdict) return std::move(verdict).error();
  if (verdict->works) {
    cufile_ = gds.cufile();
    return ReaderChoice{ReaderKind::kGds, "backend=\"gds\" was asked for: " + verdict->reason, !verdict->direct};
  }
  const std::string why = "gds was asked for, but " + verdict->reason;
  log_.write_once(why, verdict->hindered ? LogLevel::kWarning : LogLevel::kInfo, why);
  auto choice = choose(source, only_read, probe);
  if (choice) choice->reason = why + ": " + choice->reason;
  return choice;
}

std::unique_ptr<Reader> Lanes::make_reader(ReaderKind kind, const HttpObject* object, const StreamOptions& options) {
  // Who asks for io_uring by name gets O_DIRECT.
  const bool heeds_others = !options.parts && options.backend != Backend::kUring;
  return options.make_reader(kind, {.concurrency = options.concurrency,
                                    .heeds_others = heeds_others,
                                    .log = log_,
                                    .connections = sources_.connections.get(),
                                    .host = object == nullptr ? nullptr : &object->host(),
                                    .accelerator = options.device ? options.device->accelerator : nullptr,
                                    .cufile = cufile_});
}

Status Lanes::start(const StreamOptions& options) {
  for (auto& lane : lanes_) {
    auto started = lane->reader->start(*lane);
    if (!started && lane->kind == ReaderKind::kUring && options.backend != Backend::kUring) {
      const std::string reason = started.error().message + ": parallel pread";
      log_.write(LogLevel::kInfo, reason);
      for (auto& [source, why] : reasons_) {
        if (of_source_[source] == lane.get()) why = reason;
      }
      lane->kind = ReaderKind::kPread;
      lane->reader = make_reader(lane->kind, nullptr, options);
      started = lane->reader->start(*lane);
    }
    if (!started) return started;
    lane->owner.started(*lane);
  }
  return Ok{};
}

void Lanes::stop() {
  for (auto& lane : lanes_) lane->reader->stop();
  for (auto& lane : lanes_) lane->reader.reset();
}

void Lanes::abandon() {
  for (auto& lane : lanes_) static_cast<void>(lane->reader.release());
}

}  // namespace weightstream
