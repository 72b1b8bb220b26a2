// GPUDirect Storage: reads parts of local files straight to the memory of a CUDA device, by cuFile.
#pragma once

#include <cstdint>
#include <memory>

#include "device/accelerator.h"
#include "device/cufile.h"
#include "storage/reader.h"

namespace weightstream {

// Requests must be of LocalFile sources and have parts. `concurrency`: the most reads in flight; 0: found out.
[[nodiscard]] std::unique_ptr<Reader> make_gds_reader(std::shared_ptr<Accelerator> accelerator,
                                                      std::shared_ptr<const CuFile> cufile, std::uint32_t concurrency);

}  // namespace weightstream
