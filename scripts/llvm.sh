#!/usr/bin/env bash
# Finds LLVM tools whatever their version: the newest up to 22 wins, an unnumbered one comes last.
#
#   scripts/llvm.sh clang-format -i FILE...    runs the tool
#   scripts/llvm.sh --path clang-tidy          prints its path, or fails
#   scripts/llvm.sh --fuzzing-clang            prints the first clang++ that can link a fuzz target, or fails
set -euo pipefail

candidates() {
  local version
  for version in -{22..14} ""; do
    command -v "$1$version" || true
  done
}

find_tool() {
  local found
  found=$(candidates "$1" | head -n 1)
  if [ -z "$found" ]; then
    echo "error: $1 is not installed (Debian, Ubuntu: apt-get install $1)" >&2
    return 1
  fi
  echo "$found"
}

# clang and its sanitizer runtimes are separate packages, so only linking a target tells.
find_fuzzing_clang() {
  local clang
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$scratch/target.cc"
  for clang in $(candidates clang++); do
    if "$clang" -std=c++20 -fsanitize=fuzzer,address,undefined "$scratch/target.cc" -o "$scratch/target" 2>/dev/null; then
      echo "$clang"
      return
    fi
  done
  echo "error: no clang++ here can link a fuzz target (Debian, Ubuntu: clang-N and libclang-rt-N-dev)" >&2
  return 1
}

case ${1-} in
  --path) find_tool "$2" ;;
  --fuzzing-clang) find_fuzzing_clang ;;
  *) tool=$(find_tool "$1") && exec "$tool" "${@:2}" ;;
esac
