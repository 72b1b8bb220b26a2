#include "engine/gds_probe.h"

#include <utility>

#include "engine/gds_file.h"

namespace weightstream {

Result<GdsProbe::Verdict> GdsProbe::look(const LocalFile* file) {
  if (device_ == nullptr) return Verdict{.reason = why_host_};
  const std::string& device = device_->accelerator->label();
  if (device_->accelerator->vendor() != Vendor::kCuda) {
    return Verdict{.hindered = true, .reason = "cuFile is for CUDA, and " + device + " is a device of HIP"};
  }
  if (file == nullptr) return Verdict{.reason = "cuFile reads local files"};
  if (!loaded_) loaded_ = load();
  if (!*loaded_) {
    if (loaded_->error().code != ErrorCode::kDevice) return loaded_->error();
    return Verdict{.hindered = true, .reason = loaded_->error().message};
  }
  // Registered again by the reader when its turn comes: there may be more files than descriptors.
  auto registered = GdsFile::open(cufile_, *file);
  if (!registered) {
    Error error = std::move(registered).error();
    const bool refused = error.code == ErrorCode::kDevice || error.code == ErrorCode::kStorage;
    if (!refused) return error;
    return Verdict{.hindered = true, .reason = std::move(error.message)};
  }
  const std::string reads = "cuFile reads to " + device;
  if (!cufile_->way().empty()) {
    return Verdict{.works = true, .direct = true, .reason = reads + " by " + cufile_->way()};
  }
  return Verdict{
      .works = true,
      .reason = reads + " in its compatibility mode, through host memory (the kernel module nvidia-fs is not loaded)"};
}

Status GdsProbe::load() {
  // It sets itself up for the device that is current.
  return device_->accelerator->within([&]() -> Status {
    auto loaded = device_->cufile();
    if (!loaded) return std::move(loaded).error();
    cufile_ = std::move(*loaded);
    return Ok{};
  });
}

}  // namespace weightstream
