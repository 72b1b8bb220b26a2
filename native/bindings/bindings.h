// What each binding file registers. The module init only calls these.
#pragma once

#include <nanobind/nanobind.h>

namespace weightstream::bindings {

void bind_errors(nanobind::module_& module);
void bind_checkpoint(nanobind::module_& module);
void bind_host_tensor(nanobind::module_& module);
void bind_remote(nanobind::module_& module);
void bind_stream(nanobind::module_& module);

}  // namespace weightstream::bindings
