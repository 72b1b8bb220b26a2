#include "engine/sources.h"

#include <sys/resource.h>

#include <algorithm>

namespace weightstream {

std::size_t most_kept_open() {
  struct rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 16;
  return static_cast<std::size_t>(std::min<rlim_t>(limit.rlim_cur / 4, 256));
}

}  // namespace weightstream
