#include "device/driver_library.h"

#include <dlfcn.h>
#include <link.h>

#include <string_view>

namespace weightstream {
namespace {

constexpr int kFlags = RTLD_NOW | RTLD_LOCAL;

std::string last_words() {
  const char* words = ::dlerror();
  return words != nullptr ? words : "unknown error";
}

struct Search {
  std::string_view name;  // "libcuda.so" also stands for libcuda.so.1 and libcuda.so.550.54
  std::string found;
};

int visit(dl_phdr_info* image, std::size_t /*size*/, void* data) {
  auto& search = *static_cast<Search*>(data);
  const std::string_view path = image->dlpi_name;
  const std::string_view file = path.substr(path.rfind('/') + 1);
  if (!file.starts_with(search.name)) return 0;
  if (file.size() > search.name.size() && file[search.name.size()] != '.') return 0;
  search.found = path;
  return 1;
}

// The path of an image that is mapped already, whatever version it is; empty: none is.
std::string mapped_image(const char* name) {
  std::string_view plain = name;
  if (const auto suffix = plain.find(".so."); suffix != std::string_view::npos) plain = plain.substr(0, suffix + 3);
  Search search{plain, {}};
  ::dl_iterate_phdr(visit, &search);
  return search.found;
}

}  // namespace

Result<DriverLibrary> DriverLibrary::open(const std::vector<const char*>& names) {
  if (const std::string mapped = mapped_image(names.front()); !mapped.empty()) {
    if (void* handle = ::dlopen(mapped.c_str(), kFlags | RTLD_NOLOAD)) return DriverLibrary(handle);
  }
  std::string words;
  for (const char* name : names) {
    if (void* handle = ::dlopen(name, kFlags)) return DriverLibrary(handle);
    if (words.empty()) words = last_words();
  }
  return Error{.code = ErrorCode::kDevice, .message = words};
}

Result<DriverLibrary> DriverLibrary::open_path(const std::string& path) {
  if (void* handle = ::dlopen(path.c_str(), kFlags)) return DriverLibrary(handle);
  return Error{.code = ErrorCode::kDevice, .message = last_words()};
}

DriverLibrary::~DriverLibrary() {
  if (handle_ != nullptr) ::dlclose(handle_);
}

void* DriverLibrary::symbol(const char* name) {
  void* found = ::dlsym(handle_, name);
  if (found == nullptr && missing_ == nullptr) missing_ = name;
  return found;
}

std::string DriverLibrary::path() const {
  link_map* map = nullptr;
  return handle_ != nullptr && ::dlinfo(handle_, RTLD_DI_LINKMAP, &map) == 0 ? map->l_name : "";
}

}  // namespace weightstream
