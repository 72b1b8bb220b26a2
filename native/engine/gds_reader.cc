#include "engine/gds_reader.h"

#include <atomic>
#include <cerrno>
#include <string>
#include <utility>

#include "engine/gds_file.h"
#include "storage/local_file.h"
#include "storage/thread_pool_reader.h"

namespace weightstream {
namespace {

// A read of cuFile occupies a thread and no core: storage and device do the work.
constexpr std::uint32_t kStartConcurrency = 8;
constexpr std::uint32_t kMostConcurrency = 32;

class GdsRead final : public BlockingRead {
 public:
  GdsRead(std::shared_ptr<Accelerator> accelerator, std::shared_ptr<const CuFile> cufile)
      : accelerator_(std::move(accelerator)), cufile_(std::move(cufile)), files_(cufile_) {}

  Result<ReadEffort> execute(const ReadRequest& request, const std::atomic<bool>& stopping) override {
    const auto& file = static_cast<const LocalFile&>(*request.source);
    auto opened = files_.of(file);
    if (!opened) return about(std::move(opened).error(), request);
    ReadEffort effort;
    for (const DevicePart& part : request.parts) {
      for (std::uint64_t done = 0; done < part.bytes;) {
        if (stopping.load(std::memory_order_acquire)) return stopped_read(request);
        auto got = read(**opened, part.to + done, part.bytes - done, part.offset + done, file, request.range());
        if (!got) return about(std::move(got).error(), request);
        if (*got < part.bytes - done) ++effort.retries;
        done += *got;
      }
    }
    if (auto same = file.check_unchanged((*opened)->fd()); !same) return std::move(same).error();
    return effort;
  }

 private:
  // Returns how many bytes it brought: none when it was interrupted.
  Result<std::uint64_t> read(const GdsFile& opened, std::uint64_t to, std::uint64_t bytes, std::uint64_t offset,
                             const LocalFile& file, ByteRange range) {
    std::int64_t got = 0;
    int error = 0;
    auto entered = accelerator_->within([&]() -> Status {
      got = cufile_->read(opened.registered(), to, bytes, offset);
      error = errno;
      return Ok{};
    });
    if (!entered) return std::move(entered).error();
    if (got == -1 && error == EINTR) return std::uint64_t{0};
    if (got == -1) {
      Error failed = file.read_error(error, range);
      failed.message = "cuFileRead: " + failed.message;
      return failed;
    }
    if (got == 0) return file.truncated(range, offset);
    if (got < 0) return refused(describe_cufile_status({.error = static_cast<int>(-got)}));
    if (static_cast<std::uint64_t>(got) > bytes) return refused("more bytes than were asked for");
    return static_cast<std::uint64_t>(got);
  }

  [[nodiscard]] Error refused(const std::string& how) const {
    return {.code = ErrorCode::kDevice,
            .message =
                accelerator_->label() + ": cuFileRead failed with " + how + "; backend=\"auto\" reads without cuFile"};
  }

  static Error about(Error error, const ReadRequest& request) {
    error.range = request.range();
    return std::move(error).at(request.source->name());
  }

  const std::shared_ptr<Accelerator> accelerator_;
  const std::shared_ptr<const CuFile> cufile_;
  GdsFiles files_;
};

}  // namespace

std::unique_ptr<Reader> make_gds_reader(std::shared_ptr<Accelerator> accelerator, std::shared_ptr<const CuFile> cufile,
                                        std::uint32_t concurrency) {
  const ThreadPoolOptions options{.start_concurrency = concurrency > 0 ? concurrency : kStartConcurrency,
                                  .most_concurrency = concurrency > 0 ? concurrency : kMostConcurrency,
                                  .thread_name = "ws-gds"};
  return make_thread_pool_reader(std::make_unique<GdsRead>(std::move(accelerator), std::move(cufile)), options);
}

}  // namespace weightstream
