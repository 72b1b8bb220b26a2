# The system libraries of the core. A missing one is named together with the package that provides it.

find_package(Threads REQUIRED)

function(weightstream_missing library debian fedora)
  message(FATAL_ERROR
    "weightstream needs ${library}, which was not found.\n"
    "  Debian, Ubuntu:  apt-get install ${debian}\n"
    "  Fedora, RHEL:    dnf install ${fedora}\n"
    "A library in another place is found through CMAKE_PREFIX_PATH.")
endfunction()

# liburing: prefer the static archive, so that the extension runs on machines without the library.
find_path(LIBURING_INCLUDE_DIR liburing.h)
find_library(LIBURING_LIBRARY NAMES liburing.a uring)
if(NOT LIBURING_INCLUDE_DIR OR NOT LIBURING_LIBRARY)
  weightstream_missing("liburing" "liburing-dev" "liburing-devel")
endif()
add_library(weightstream_liburing INTERFACE)
target_include_directories(weightstream_liburing SYSTEM INTERFACE "${LIBURING_INCLUDE_DIR}")
target_link_libraries(weightstream_liburing INTERFACE "${LIBURING_LIBRARY}")

find_path(SIMDJSON_INCLUDE_DIR simdjson.h)
find_library(SIMDJSON_LIBRARY NAMES libsimdjson.a simdjson)
if(NOT SIMDJSON_INCLUDE_DIR OR NOT SIMDJSON_LIBRARY)
  weightstream_missing("simdjson (3.0 or newer)" "libsimdjson-dev" "simdjson-devel")
endif()
add_library(weightstream_simdjson INTERFACE)
target_include_directories(weightstream_simdjson SYSTEM INTERFACE "${SIMDJSON_INCLUDE_DIR}")
target_link_libraries(weightstream_simdjson INTERFACE "${SIMDJSON_LIBRARY}")

# libcurl is always shared: it brings the system's TLS, certificates and name resolution, which the system updates.
find_package(CURL 7.68)
if(NOT CURL_FOUND)
  weightstream_missing("libcurl (7.68 or newer)" "libcurl4-openssl-dev" "libcurl-devel")
endif()
add_library(weightstream_libcurl INTERFACE)
target_link_libraries(weightstream_libcurl INTERFACE CURL::libcurl)
