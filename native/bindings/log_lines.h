// Log lines of the core for Python: (level, text). Paths in them may hold bytes that are not UTF-8.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "base/log.h"

namespace weightstream::bindings {

inline nanobind::list to_list(const std::vector<LogLine>& lines) {
  nanobind::list result;
  for (const auto& line : lines) {
    result.append(nanobind::make_tuple(static_cast<int>(line.level),
                                       nanobind::steal(PyUnicode_DecodeFSDefaultAndSize(
                                           line.text.data(), static_cast<Py_ssize_t>(line.text.size())))));
  }
  return result;
}

}  // namespace weightstream::bindings
