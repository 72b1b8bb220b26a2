// An Error of the core on its way to Python. The translation to the Python error tree happens in errors.cc only.
#pragma once

#include <utility>

#include "base/error.h"
#include "base/result.h"

namespace weightstream::bindings {

struct CoreError {
  Error error;
};

// The value of a result, or the error as an exception for Python.
template <typename T>
T value_or_throw(Result<T> result) {
  if (!result.ok()) throw CoreError{std::move(result).error()};
  return std::move(result).value();
}

}  // namespace weightstream::bindings
