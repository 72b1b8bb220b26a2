# weightstream_layer(<name> SOURCES ... USES <lower layers> PRIVATE_LIBRARIES ... PUBLIC_LIBRARIES ...)
#
# One static library per folder of native/. A layer's headers are reached as "<name>/file.h" through an include root
# that holds nothing but that folder, and only by the layers that list it in USES. An include that points upward does
# not compile.

function(weightstream_compile_options target)
  target_compile_options(${target} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wnon-virtual-dtor -Wold-style-cast)
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    target_compile_options(${target} PRIVATE -Wno-sign-conversion)  # which is no part of GCC's -Wconversion
  endif()
  if(WEIGHTSTREAM_WERROR)
    target_compile_options(${target} PRIVATE -Werror)
  endif()
  if(WEIGHTSTREAM_SANITIZE)
    # -g1: lines, functions and what was inlined, which is all that a stack trace shows. -g takes half as long again.
    target_compile_options(${target} PUBLIC -fsanitize=${WEIGHTSTREAM_SANITIZE} -fno-sanitize-recover=all
                                            -fno-omit-frame-pointer -g1)
    target_link_options(${target} PUBLIC -fsanitize=${WEIGHTSTREAM_SANITIZE})
    # Functions of C libraries, opened by name, carry no C++ types to compare with.
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang" AND WEIGHTSTREAM_SANITIZE MATCHES "undefined")
      target_compile_options(${target} PUBLIC -fno-sanitize=function)
    endif()
  endif()
endfunction()

# What most files include.
set(WEIGHTSTREAM_COMMON_HEADERS
  <algorithm> <array> <atomic> <cerrno> <charconv> <chrono> <condition_variable> <cstddef> <cstdint> <cstring> <deque>
  <functional> <list> <map> <memory> <mutex> <optional> <span> <string> <string_view> <thread> <unordered_map> <utility>
  <variant> <vector>)

# weightstream_precompile(<target> <owner> <header>...)
#
# Parses the headers once, for the target that owns them, and not once a file. The other targets of an owner have to be
# compiled with the same options.
function(weightstream_precompile target owner)
  if(NOT WEIGHTSTREAM_PRECOMPILE)
    return()
  elseif(target STREQUAL owner)
    target_precompile_headers(${target} PRIVATE ${ARGN})
  else()
    target_precompile_headers(${target} REUSE_FROM ${owner})
  endif()
endfunction()

function(weightstream_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES;PRIVATE_LIBRARIES;PUBLIC_LIBRARIES" ${ARGN})
  set(root "${CMAKE_BINARY_DIR}/include-roots/${name}")
  file(MAKE_DIRECTORY "${root}")
  file(CREATE_LINK "${CMAKE_CURRENT_SOURCE_DIR}" "${root}/${name}" SYMBOLIC)

  set(uses ${ARG_USES})
  list(TRANSFORM uses PREPEND weightstream_)
  if(ARG_SOURCES)
    add_library(weightstream_${name} STATIC ${ARG_SOURCES})
    target_include_directories(weightstream_${name} PUBLIC "${root}")
    target_link_libraries(weightstream_${name} PUBLIC ${uses} Threads::Threads ${ARG_PUBLIC_LIBRARIES}
                          PRIVATE ${ARG_PRIVATE_LIBRARIES})
    weightstream_compile_options(weightstream_${name})
    # GCC's optimiser warns of precompiled system headers as of our own.
    if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
      weightstream_precompile(weightstream_${name} weightstream_base ${WEIGHTSTREAM_COMMON_HEADERS})
    endif()
  else()
    add_library(weightstream_${name} INTERFACE)
    target_include_directories(weightstream_${name} INTERFACE "${root}")
    target_link_libraries(weightstream_${name} INTERFACE ${uses})
  endif()
endfunction()
