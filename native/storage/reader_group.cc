#include "storage/reader_group.h"

#include <atomic>
#include <utility>

namespace weightstream {
namespace {

class ReaderGroup final : public Reader {
 public:
  explicit ReaderGroup(std::vector<std::unique_ptr<Reader>> readers) : readers_(std::move(readers)) {}
  ~ReaderGroup() override { stop(); }

  Status start(ReadFeed& feed) override {
    for (auto& reader : readers_) {
      if (auto started = reader->start(feed); !started) {
        if (started_ == 0) return started;
        break;  // fewer readers than wished for: slower, not wrong
      }
      started_.fetch_add(1, std::memory_order_release);
    }
    wake();  // those that were not started yet when a wake came have missed it
    return Ok{};
  }
  // The threads of the first reader may cause a wake while the next one is still being started.
  void wake() override {
    const auto started = started_.load(std::memory_order_acquire);
    for (std::size_t i = 0; i < started; ++i) readers_[i]->wake();
  }
  void stop() override {
    const auto started = started_.exchange(0);
    for (std::size_t i = 0; i < started; ++i) readers_[i]->stop();
  }

 private:
  std::vector<std::unique_ptr<Reader>> readers_;
  std::atomic<std::size_t> started_ = 0;  // the first so many run
};

}  // namespace

std::unique_ptr<Reader> make_reader_group(std::vector<std::unique_ptr<Reader>> readers) {
  return std::make_unique<ReaderGroup>(std::move(readers));
}

}  // namespace weightstream
