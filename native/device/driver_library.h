// A driver library, opened at run time, and its functions by name.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/result.h"

namespace weightstream {

// What a driver function returned, and which one it was.
struct DriverStatus {
  const char* call;
  int status;

  [[nodiscard]] bool ok() const { return status == 0; }
};

// One function of a driver. Those that can fail return an int.
template <typename Signature>
struct DriverFunction;
template <typename... Arguments>
struct DriverFunction<int(Arguments...)> {
  const char* name = "";
  int (*function)(Arguments...) = nullptr;

  [[nodiscard]] DriverStatus operator()(Arguments... arguments) const { return {name, function(arguments...)}; }
};

// Closes the library when it dies, unless keep() was called. Not thread-safe.
class DriverLibrary {
 public:
  // The first of `names` that opens. An image that this process has mapped already comes before all of them: a
  // framework may bring its own copy of the driver, and a second one beside it would know nothing of the first's
  // streams and memory. Fails with kDevice and the loader's words for the first name.
  static Result<DriverLibrary> open(const std::vector<const char*>& names);
  // `path` and nothing else.
  static Result<DriverLibrary> open_path(const std::string& path);

  DriverLibrary(DriverLibrary&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), missing_(std::exchange(other.missing_, nullptr)) {}
  DriverLibrary& operator=(DriverLibrary&&) = delete;
  DriverLibrary(const DriverLibrary&) = delete;
  DriverLibrary& operator=(const DriverLibrary&) = delete;
  ~DriverLibrary();

  // Fills in `function`. A name that the library does not have is remembered as missing().
  template <typename Signature>
  void bind(DriverFunction<Signature>& function, const char* name) {
    function.name = name;
    bind(function.function, name);
  }
  template <typename Function>
  void bind(Function*& function, const char* name) {
    // POSIX promises that an object pointer from dlsym holds a function.
    function = reinterpret_cast<Function*>(symbol(name));
  }

  // The first name that was asked for in vain; null: none was.
  [[nodiscard]] const char* missing() const { return missing_; }
  // The file that was opened, as the loader knows it.
  [[nodiscard]] std::string path() const;
  // Never closed from now on: a driver that was initialised has threads of its own in its code.
  void keep() { handle_ = nullptr; }

 private:
  explicit DriverLibrary(void* handle) : handle_(handle) {}
  void* symbol(const char* name);

  void* handle_;
  const char* missing_ = nullptr;
};

}  // namespace weightstream
