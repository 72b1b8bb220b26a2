// The sources of a load, and what the remote ones among them share.
#pragma once

#include <memory>
#include <vector>

#include "storage/http_connections.h"
#include "storage/http_object.h"
#include "storage/local_file.h"
#include "storage/source.h"

namespace weightstream {

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

}  // namespace weightstream
