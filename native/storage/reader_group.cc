#include "storage/reader_group.h"

#include <utility>

namespace weightstream {
namespace {

class ReaderGroup final : public Reader {
 public:
  explicit ReaderGroup(std::vector<std::unique_ptr<Reader>> readers) : readers_(std::move(readers)) {}
  ~ReaderGroup() override { stop(); }

  Status start(ReadFeed& feed) override {
    for (std::size_t i = 0; i < readers_.size(); ++i) {
      if (auto started = readers_[i]->start(feed); !started) {
        readers_.resize(i);  // fewer readers than wished for: slower, not wrong
        if (i == 0) return started;
      }
    }
    return Ok{};
  }
  void wake() override {
    for (auto& reader : readers_) reader->wake();
  }
  void stop() override {
    for (auto& reader : readers_) reader->stop();
  }

 private:
  std::vector<std::unique_ptr<Reader>> readers_;
};

}  // namespace

std::unique_ptr<Reader> make_reader_group(std::vector<std::unique_ptr<Reader>> readers) {
  return std::make_unique<ReaderGroup>(std::move(readers));
}

}  // namespace weightstream
