#include "bindings/bindings.h"

NB_MODULE(_core, module) {
  // Tensors may outlive the interpreter's shutdown order; that is no leak.
  nanobind::set_leak_warnings(false);
  weightstream::bindings::bind_errors(module);
  weightstream::bindings::bind_checkpoint(module);
  weightstream::bindings::bind_host_tensor(module);
  weightstream::bindings::bind_remote(module);
  weightstream::bindings::bind_stream(module);
}
