#include "storage/inline_reader.h"

#include <atomic>
#include <utility>

namespace weightstream {
namespace {

class InlineReader final : public Reader {
 public:
  explicit InlineReader(std::unique_ptr<BlockingRead> read) : read_(std::move(read)) {}

  Status start(ReadFeed& feed) override {
    const std::atomic<bool> stopping = false;  // nobody can stop what start() has not returned from
    while (auto request = feed.pull()) feed.complete(*request, read_->execute(*request, stopping));
    return Ok{};
  }
  void wake() override {}
  void stop() override {}

 private:
  std::unique_ptr<BlockingRead> read_;
};

}  // namespace

std::unique_ptr<Reader> make_inline_reader(std::unique_ptr<BlockingRead> read) {
  return std::make_unique<InlineReader>(std::move(read));
}

}  // namespace weightstream
