// The sources of a load: what names them before they are open, and what the remote ones share.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "storage/http_connections.h"
#include "storage/http_object.h"
#include "storage/local_file.h"
#include "storage/source.h"

namespace weightstream {

// A path, or an object that is opened by its first read.
using SourceSpec = std::variant<std::string, std::shared_ptr<HttpObject>>;

inline const std::atomic<bool> kNeverCancelled = false;

struct Sources {
  std::vector<std::shared_ptr<Source>> list;
  std::shared_ptr<HttpConnections> connections = std::make_shared<HttpConnections>();

  [[nodiscard]] std::size_t size() const { return list.size(); }
  [[nodiscard]] const Source& at(std::size_t i) const { return *list[i]; }
  // Null where the source is of the other kind.
  [[nodiscard]] const LocalFile* local(std::size_t i) const { return dynamic_cast<const LocalFile*>(list[i].get()); }
  [[nodiscard]] const HttpObject* remote(std::size_t i) const { return dynamic_cast<const HttpObject*>(list[i].get()); }

  // Closes the descriptors and connections that are kept for later. Streams that run keep theirs.
  void park() const {
    for (std::size_t i = 0; i < size(); ++i) {
      if (const auto* file = local(i)) file->park();
    }
    connections->close_idle();
  }
};

// How many files may stay open between the header and the data. The rest is opened again when its turn comes (and has
// to be the same file then), so that a checkpoint of more shards than descriptors works.
[[nodiscard]] std::size_t most_kept_open();

}  // namespace weightstream
