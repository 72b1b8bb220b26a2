#include "device/pinning.h"

#include <array>
#include <cstdio>
#include <fstream>

namespace weightstream {

DevicePinner::DevicePinner(std::shared_ptr<Accelerator> accelerator)
    : accelerator_(std::move(accelerator)), numa_node_(numa_node_of(accelerator_->pci_bus_id())) {}

int numa_node_of(const std::string& pci_bus_id, const std::string& devices) {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;
  unsigned function = 0;
  if (std::sscanf(pci_bus_id.c_str(), "%8x:%2x:%2x.%1x", &domain, &bus, &device, &function) != 4) return -1;
  std::array<char, 32> folder{};
  std::snprintf(folder.data(), folder.size(), "%04x:%02x:%02x.%x", domain, bus, device, function);
  std::ifstream file(devices + "/" + folder.data() + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

}  // namespace weightstream
