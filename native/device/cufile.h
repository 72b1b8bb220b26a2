// cuFile, NVIDIA's library for GPUDirect Storage: reads from files straight to the memory of a CUDA device.
//
// It is opened at run time, when a stream asks for it, and stays open: its functions are declared here by their
// published signatures, so that nothing of the toolkit is needed. cuFile is never closed either, because others in the
// process may use it too (a framework that links it, say), and it ends with the process by itself.
//
// Thread-safe. In a forked child of a process that opened it nothing of it may be called; usable_here() says so.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "device/driver_library.h"

namespace weightstream {

// What most functions return, by value.
struct CuFileStatus {
  int error = 0;       // CUfileOpError
  int cuda_error = 0;  // CUresult, where `error` says that it was the driver
};

// CUfileDescr_t.
struct CuFileDescriptor {
  int type = 0;
  union {
    int fd;
    void* handle = nullptr;
  };
  const void* operations = nullptr;
};

// CUfileDrvProps_t. Sizes are in KiB. Libraries of other versions may know of more fields at its end.
struct CuFileProperties {
  unsigned nvfs_major = 0;
  unsigned nvfs_minor = 0;
  std::size_t poll_threshold = 0;
  std::size_t most_direct_io = 0;
  unsigned status_flags = 0;
  unsigned control_flags = 0;
  unsigned feature_flags = 0;
  unsigned most_device_cache = 0;
  unsigned buffer_cache = 0;
  unsigned most_pinned = 0;
  unsigned most_batch = 0;
  unsigned batch_timeout_ms = 0;
  std::uint64_t reserved[16] = {};
};

class CuFile {
 public:
  // The library of this process: loaded and opened by the first call, then the same for ever, and so is a failure.
  // WEIGHTSTREAM_CUFILE_LIBRARY names another library, by absolute path. To be called with a device current.
  //
  // Fails with kConfig when that path is relative, and with kDevice when there is no library, it lacks a function, or
  // it refuses to start.
  static Result<std::shared_ptr<const CuFile>> of_process();
  // One of its own from `library` (an absolute path; empty: where the loader finds it). As above.
  static Result<std::shared_ptr<const CuFile>> open(const std::string& library);

  // What brings bytes from storage to a device on this machine without host memory: "nvidia-fs 2.17" (the kernel
  // module), or "peer-to-peer DMA" (the kernel's own). Empty: all reads go through host memory inside of cuFile
  // (compatibility mode). Whether a certain file goes that way is nothing that cuFile tells.
  [[nodiscard]] const std::string& way() const { return way_; }

  // Makes a file known to it. `fd` stays the caller's: it may be registered once at a time, must not have been opened
  // with O_NONBLOCK, and stays open until it is deregistered. Fails with kDevice.
  [[nodiscard]] Result<void*> register_file(int fd) const;
  // Precondition: no read of it is under way. Does nothing in a forked child.
  void deregister_file(void* file) const noexcept;

  // Reads up to `bytes` at `offset` to the device address `to`, which belongs to the context that is current. Any
  // alignment will do. Returns when they are there: how many it were, 0 at the end of the file; -1 and errno when the
  // filesystem failed; a status of cuFile below that.
  //
  // It is not ordered with what is queued on any stream: nothing that is may use that memory.
  [[nodiscard]] std::int64_t read(void* file, std::uint64_t to, std::uint64_t bytes, std::uint64_t offset) const;

  [[nodiscard]] bool usable_here() const;

 private:
  CuFile() = default;

  struct Table {
    CuFileStatus (*driver_open)() = nullptr;
    CuFileStatus (*driver_get_properties)(CuFileProperties*) = nullptr;
    CuFileStatus (*handle_register)(void** file, CuFileDescriptor*) = nullptr;
    void (*handle_deregister)(void* file) = nullptr;
    ssize_t (*read)(void* file, void* base, std::size_t bytes, off_t offset, off_t base_offset) = nullptr;
  };
  Table table_;
  pid_t process_ = 0;  // which opened it
  std::string way_;
};

// "CU_FILE_IO_NOT_SUPPORTED (5008): the file cannot be read by GPUDirect Storage".
[[nodiscard]] std::string describe_cufile_status(CuFileStatus status);

}  // namespace weightstream
