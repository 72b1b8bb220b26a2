// What cuFile's statuses are called, and what they mean. The library itself has no function for that.
#include <algorithm>
#include <array>
#include <string>

#include "device/cufile.h"

namespace weightstream {
namespace {

constexpr int kCudaDriverError = 5011;

struct Known {
  int status;
  const char* name;
  const char* text;
};

constexpr std::array kKnown = {
    Known{5001, "CU_FILE_DRIVER_NOT_INITIALIZED",
          "the kernel module nvidia-fs is not loaded, and cufile.json does not allow the compatibility mode"},
    Known{5002, "CU_FILE_DRIVER_INVALID_PROPS", "a property in cufile.json is invalid"},
    Known{5003, "CU_FILE_DRIVER_UNSUPPORTED_LIMIT", "a property in cufile.json is out of range"},
    Known{5004, "CU_FILE_DRIVER_VERSION_MISMATCH", "the library and nvidia-fs are of different versions"},
    Known{5005, "CU_FILE_DRIVER_VERSION_READ_ERROR", "the version of nvidia-fs cannot be read"},
    Known{5006, "CU_FILE_DRIVER_CLOSING", "cuFile is being closed"},
    Known{5007, "CU_FILE_PLATFORM_NOT_SUPPORTED", "this platform does not support it"},
    Known{5008, "CU_FILE_IO_NOT_SUPPORTED", "this file, or its filesystem, does not support it"},
    Known{5009, "CU_FILE_DEVICE_NOT_SUPPORTED", "this GPU does not support it"},
    Known{5010, "CU_FILE_NVFS_DRIVER_ERROR", "a call to nvidia-fs failed"},
    Known{kCudaDriverError, "CU_FILE_CUDA_DRIVER_ERROR", "a call to the CUDA driver failed"},
    Known{5012, "CU_FILE_CUDA_POINTER_INVALID", "the address is none of device memory"},
    Known{5013, "CU_FILE_CUDA_MEMORY_TYPE_INVALID", "the memory is not of a type that it can read to"},
    Known{5014, "CU_FILE_CUDA_POINTER_RANGE_ERROR", "the range goes beyond its allocation"},
    Known{5015, "CU_FILE_CUDA_CONTEXT_MISMATCH", "the memory belongs to another context"},
    Known{5016, "CU_FILE_INVALID_MAPPING_SIZE", "more memory than may be pinned"},
    Known{5017, "CU_FILE_INVALID_MAPPING_RANGE", "the range goes beyond what is mapped"},
    Known{5018, "CU_FILE_INVALID_FILE_TYPE", "a file of this type is not supported"},
    Known{5019, "CU_FILE_INVALID_FILE_OPEN_FLAG", "a flag that the file was opened with is not supported"},
    Known{5020, "CU_FILE_DIO_NOT_SET", "the file was not opened with O_DIRECT"},
    Known{5022, "CU_FILE_INVALID_VALUE", "an argument is invalid"},
    Known{5023, "CU_FILE_MEMORY_ALREADY_REGISTERED", "the memory is registered already"},
    Known{5024, "CU_FILE_MEMORY_NOT_REGISTERED", "the memory is not registered"},
    Known{5025, "CU_FILE_PERMISSION_DENIED", "this user may not use /dev/nvidia-fs*, or the file"},
    Known{5026, "CU_FILE_DRIVER_ALREADY_OPEN", "it is open already"},
    Known{5027, "CU_FILE_HANDLE_NOT_REGISTERED", "the file is not registered"},
    Known{5028, "CU_FILE_HANDLE_ALREADY_REGISTERED", "the file is registered already"},
    Known{5029, "CU_FILE_DEVICE_NOT_FOUND", "the GPU was not found"},
    Known{5030, "CU_FILE_INTERNAL_ERROR", "an internal error; cufile.log says more"},
    Known{5031, "CU_FILE_GETNEWFD_FAILED", "no new descriptor could be had"},
    Known{5033, "CU_FILE_NVFS_SETUP_ERROR", "nvidia-fs could not be set up"},
    Known{5034, "CU_FILE_IO_DISABLED", "cufile.json switches it off for this file"},
    Known{5036, "CU_FILE_GPU_MEMORY_PINNING_FAILED", "device memory could not be pinned"},
    Known{5043, "CU_FILE_NOMEM_ERROR", "out of memory"},
    Known{5044, "CU_FILE_IO_ERROR", "reading failed"},
    Known{5045, "CU_FILE_INTERNAL_BUF_REGISTER_ERROR", "a buffer could not be registered"},
    Known{5046, "CU_FILE_HASH_OPR_ERROR", "an internal error; cufile.log says more"},
    Known{5047, "CU_FILE_INVALID_CONTEXT_ERROR", "no context of the device is current"},
    Known{5048, "CU_FILE_NVFS_INTERNAL_DRIVER_ERROR", "an internal error of nvidia-fs"},
    Known{5049, "CU_FILE_BATCH_NOCOMPAT_ERROR", "cufile.json does not allow the compatibility mode"},
};

}  // namespace

std::string describe_cufile_status(CuFileStatus status) {
  const auto* known = std::find_if(kKnown.begin(), kKnown.end(),
                                   [&](const Known& candidate) { return candidate.status == status.error; });
  const std::string number = std::string("(").append(std::to_string(status.error)).append(")");
  std::string text = known != kKnown.end() ? std::string(known->name) + " " + number + ": " + known->text
                                           : "an unknown cuFile error " + number;
  if (status.error == kCudaDriverError) text += " with CUDA error " + std::to_string(status.cuda_error);
  return text;
}

}  // namespace weightstream
