#!/usr/bin/env bash
# Finds LLVM tools whatever their version: the newest up to 22 wins, an unnumbered one comes last. clang-format has to be
# 19 or newer: those agree on how this code is formatted, older ones break some lines elsewhere.
#
#   scripts/llvm.sh clang-format -i FILE...    runs the tool
#   scripts/llvm.sh --path clang-tidy          prints its path, or fails
#   scripts/llvm.sh --fuzzing-clang            prints the first clang++ that can link a fuzz target, or fails
set -euo pipefail

oldest() { [ "$1" = clang-format ] && echo 19 || echo 14; }

major_version() {
  local text
  text=$("$1" --version)
  [[ $text =~ version\ ([0-9]+)\. ]] && echo "${BASH_REMATCH[1]}" || echo 0
}

candidates() {
  local oldest version unnumbered
  oldest=$(oldest "$1")
  for ((version = 22; version >= oldest; version--)); do
    command -v "$1-$version" || true
  done
  if unnumbered=$(command -v "$1") && [ "$(major_version "$unnumbered")" -ge "$oldest" ]; then
    echo "$unnumbered"
  fi
}

find_tool() {
  local -a found
  mapfile -t found < <(candidates "$1")
  if [ ${#found[@]} -eq 0 ]; then
    echo "error: there is no $1 of version $(oldest "$1") or newer (Debian, Ubuntu: apt-get install $1-19)" >&2
    return 1
  fi
  echo "${found[0]}"
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
