// Python's list of sources, paths as bytes and HttpObjects, for the core.
#pragma once

#include <nanobind/nanobind.h>

#include <vector>

#include "engine/sources.h"

namespace weightstream::bindings {

[[nodiscard]] std::vector<SourceSpec> to_specs(const nanobind::list& sources);

}  // namespace weightstream::bindings
