#!/usr/bin/env bash
# Installs the system packages that are missing, and does nothing when all are there.
#
#   scripts/system-packages.sh build        what the package needs: a compiler, Python headers, liburing, simdjson, libcurl
#   scripts/system-packages.sh test         that, and what its C++ tests, fuzzer and formatting need: GoogleTest, clang,
#                                           clang-format; it can do without the last
#   scripts/system-packages.sh engines      what the tests of inference engines need: libnuma
#   scripts/system-packages.sh nginx DIR    unpacks nginx into DIR, if there is none; to install it would start a web
#                                           server, now and at every boot
#
# PYTHON names the interpreter that the virtual environment is made from (python3).
set -euo pipefail

readonly what=${1:?usage: scripts/system-packages.sh build|test|engines|nginx DIR}
readonly python=${PYTHON:-python3}
[ "$what" != nginx ] || readonly into=${2:?usage: scripts/system-packages.sh nginx DIR}
here=$(cd "$(dirname "$0")" && pwd)
readonly here

has_header() { echo "#include <$1>" | g++ -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; }
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }
has_clang_format() { "$here/llvm.sh" --path clang-format >/dev/null 2>&1; }
has_fuzzer() { "$here/llvm.sh" --fuzzing-clang >/dev/null 2>&1; }
has_python_headers() {
  "$python" -c 'import os, sysconfig; exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

has_library() { [[ "$(PATH="$PATH:/usr/sbin:/sbin" ldconfig -p)" == *"$1"* ]]; }
has_nginx() { { PATH="$PATH:/usr/sbin" command -v nginx || "$1/usr/sbin/nginx" -v; } >/dev/null 2>&1; }

# Sets `missing` (package names), `needs_clang` and `wants_format`.
look() {
  missing=()
  needs_clang=no
  wants_format=no
  if [ "$what" = nginx ]; then
    has_nginx "$into" || missing+=(nginx)
    return
  fi
  if [ "$what" = engines ]; then
    has_library libnuma.so.1 || missing+=(libnuma1)
    return
  fi
  command -v g++ >/dev/null || missing+=(g++)
  has_venv || missing+=(python3-venv)
  has_python_headers || missing+=(python3-dev)
  has_header liburing.h || missing+=(liburing-dev)
  has_header simdjson.h || missing+=(libsimdjson-dev)
  has_header curl/curl.h || missing+=(libcurl4-openssl-dev)
  if [ "$what" = test ]; then
    has_header gtest/gtest.h || missing+=(libgtest-dev)
    has_fuzzer || needs_clang=yes
    has_clang_format || wants_format=yes
  fi
}

complete() { [ ${#missing[@]} -eq 0 ] && [ $needs_clang = no ]; }

# Where only clang-format is missing, `make lint` says so.
give_up() {
  ! complete || exit 0
  [ $needs_clang = no ] || missing+=(clang libclang-rt-dev)
  echo "error: $1" >&2
  echo "  weightstream needs these system packages (names as in Debian and Ubuntu):" >&2
  echo "    ${missing[*]}" >&2
  echo "  Fedora: gcc-c++ python3-devel liburing-devel simdjson-devel libcurl-devel gtest-devel clang compiler-rt clang-tools-extra" >&2
  exit 1
}

# The newest clang that this system offers, with its runtimes.
clang_packages() {
  local version
  for version in {22..14}; do
    if apt-cache show "clang-$version" "libclang-rt-$version-dev" >/dev/null 2>&1; then
      echo "clang-$version libclang-rt-$version-dev"
      return
    fi
  done
  echo "clang"
}

# The newest clang-format that this system offers and scripts/llvm.sh takes, if there is one.
clang_format_package() {
  local version
  for version in {22..19}; do
    if apt-cache show "clang-format-$version" >/dev/null 2>&1; then
      echo "clang-format-$version"
      return
    fi
  done
}

# Which package has the program depends on the release.
unpack_nginx() {
  local package
  mkdir -p "$into"
  for package in nginx nginx-light nginx-core; do
    (cd "$into" && apt-get -qq download "$package" && dpkg -x "$package"_*.deb . && rm "$package"_*.deb) >"$log" 2>&1 ||
      cat "$log" >&2
    ! has_nginx "$into" || return 0
  done
}

look
if complete && [ $wants_format = no ]; then
  exit 0
fi
command -v apt-get >/dev/null || give_up "system packages are missing, and this system has no apt-get to install them"
if [ "$(id -u)" -eq 0 ]; then
  as_root=()
elif command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  as_root=(sudo)
else
  give_up "system packages are missing, and only root may install them"
fi
log=$(mktemp)
readonly log
trap 'rm -f "$log"' EXIT
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 </dev/null ||
    { cat "$log" >&2 && give_up "apt-get $* failed"; }
}

names=("${missing[@]}")
[ $needs_clang = no ] || names+=("clang (for sanitizers and fuzzers)")
[ $wants_format = no ] || names+=(clang-format)
echo "==> system packages: ${names[*]}"
# Always: lists that are absent or old make an install fail on a file that the archive no longer has.
apt update
if [ $needs_clang = yes ]; then
  read -r -a clang <<<"$(clang_packages)"
  missing+=("${clang[@]}")
fi
if [ "$what" = nginx ]; then
  unpack_nginx
else
  optional=()
  [ $wants_format = no ] || mapfile -t optional < <(clang_format_package)
  apt install --no-install-recommends "${missing[@]}" "${optional[@]}"
fi
look
complete || give_up "the packages were installed, but something is still not found"
