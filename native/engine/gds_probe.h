// Whether GPUDirect Storage can bring a source to where a stream's reads land: found out by asking cuFile, the device
// and the file.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "device/cufile.h"
#include "engine/device_target.h"
#include "storage/local_file.h"

namespace weightstream {

class GdsProbe {
 public:
  // `device`: where the reads of the stream land; null where that is host memory, for the reason `why_host`.
  GdsProbe(const DeviceTarget* device, std::string why_host) : device_(device), why_host_(std::move(why_host)) {}

  struct Verdict {
    bool works = false;
    bool direct = false;    // not through host memory, as far as this machine goes
    bool hindered = false;  // where the reads go, and what they read, it could work
    std::string reason;  // for people: "cuFile reads to cuda:0 by nvidia-fs 2.17", "there is no cuFile library: ..."
  };
  // Of a file, or of an object (null). What holds for all of them is found out once. Fails with kConfig when a setting
  // cannot work, with the handle's errors otherwise.
  Result<Verdict> look(const LocalFile* file);

  // Null until it is known to work.
  [[nodiscard]] const std::shared_ptr<const CuFile>& cufile() const { return cufile_; }

 private:
  Status load();

  const DeviceTarget* const device_;
  const std::string why_host_;
  std::optional<Status> loaded_;
  std::shared_ptr<const CuFile> cufile_;
};

}  // namespace weightstream
