#include "device/cufile.h"

#include <unistd.h>

#include <cstdlib>
#include <utility>

namespace weightstream {
namespace {

using Loaded = Result<std::shared_ptr<const CuFile>>;

constexpr const char* kLibraryVariable = "WEIGHTSTREAM_CUFILE_LIBRARY";
constexpr int kAlreadyOpen = 5026;
constexpr int kOpaqueFd = 1;               // CU_FILE_HANDLE_TYPE_OPAQUE_FD
constexpr unsigned kPeerToPeer = 1U << 4;  // CU_FILE_P2P_SUPPORTED

Error device_error(std::string message) { return {.code = ErrorCode::kDevice, .message = std::move(message)}; }

Error refused(const char* call, CuFileStatus status) {
  return device_error(std::string(call) + " failed with " + describe_cufile_status(status));
}

}  // namespace

Loaded CuFile::of_process() {
  // Never freed: threads may look at it until the process ends.
  static const auto* outcome = [] {
    const char* named = ::secure_getenv(kLibraryVariable);
    return new Loaded(open(named != nullptr ? named : ""));
  }();
  if (outcome->ok() && !(*outcome)->get()->usable_here()) {
    return device_error("cuFile was in use before this process was forked, and does not survive that");
  }
  return *outcome;
}

Loaded CuFile::open(const std::string& library) {
  if (!library.empty() && library.front() != '/') {
    return Error{.code = ErrorCode::kConfig,
                 .message = std::string(kLibraryVariable) + " is \"" + library +
                            "\": it must be an absolute path, so that nobody can slip in another library"};
  }
  auto opened = library.empty() ? DriverLibrary::open({"libcufile.so.0"}) : DriverLibrary::open_path(library);
  if (!opened) {
    if (library.empty()) {
      return device_error("there is no cuFile library: " + opened.error().message +
                          " (it comes with the CUDA toolkit, and with the Python package nvidia-cufile)");
    }
    return device_error("the cuFile library that was named cannot be loaded: " + opened.error().message + " (" +
                        kLibraryVariable + " names it)");
  }
  const std::shared_ptr<CuFile> made(new CuFile);
  opened->bind(made->table_.driver_open, "cuFileDriverOpen");
  opened->bind(made->table_.driver_get_properties, "cuFileDriverGetProperties");
  opened->bind(made->table_.handle_register, "cuFileHandleRegister");
  opened->bind(made->table_.handle_deregister, "cuFileHandleDeregister");
  opened->bind(made->table_.read, "cuFileRead");
  if (opened->missing() != nullptr) {
    return device_error(opened->path() + " is no cuFile library: it has no " + opened->missing());
  }
  opened->keep();
  made->process_ = ::getpid();
  const CuFileStatus started = made->table_.driver_open();
  if (started.error != 0 && started.error != kAlreadyOpen) return refused("cuFileDriverOpen", started);
  CuFileProperties properties;
  if (made->table_.driver_get_properties(&properties).error == 0) {
    if (properties.nvfs_major != 0 || properties.nvfs_minor != 0) {
      made->way_ = "nvidia-fs " + std::to_string(properties.nvfs_major) + "." + std::to_string(properties.nvfs_minor);
    } else if ((properties.feature_flags & kPeerToPeer) != 0) {
      made->way_ = "peer-to-peer DMA";
    }
  }
  return std::shared_ptr<const CuFile>(made);
}

Result<void*> CuFile::register_file(int fd) const {
  CuFileDescriptor descriptor;
  descriptor.type = kOpaqueFd;
  descriptor.fd = fd;
  void* file = nullptr;
  const CuFileStatus status = table_.handle_register(&file, &descriptor);
  if (status.error != 0) return refused("cuFileHandleRegister", status);
  return file;
}

void CuFile::deregister_file(void* file) const noexcept {
  if (usable_here()) table_.handle_deregister(file);
}

std::int64_t CuFile::read(void* file, std::uint64_t to, std::uint64_t bytes, std::uint64_t offset) const {
  void* base = reinterpret_cast<void*>(to);  // NOLINT(performance-no-int-to-ptr): what the driver calls an address
  return table_.read(file, base, bytes, static_cast<off_t>(offset), 0);
}

bool CuFile::usable_here() const { return process_ == ::getpid(); }

}  // namespace weightstream
