#!/usr/bin/env bash
# Runs an LLVM tool by its plain name, whatever version of it is installed:
#   scripts/llvm.sh clang-format -i FILE...
#   scripts/llvm.sh --path clang++      prints the path, or fails
# The newest version up to 22 wins; an unnumbered one comes last, because it is often the oldest.
set -euo pipefail

find_tool() {
  local version
  for version in -{22..14} ""; do
    if command -v "$1$version" >/dev/null 2>&1; then
      command -v "$1$version"
      return 0
    fi
  done
  echo "error: $1 is not installed (Debian, Ubuntu: apt-get install ${1/clang++/clang})" >&2
  return 1
}

if [ "${1-}" = "--path" ]; then
  find_tool "$2"
else
  tool=$(find_tool "$1")
  exec "$tool" "${@:2}"
fi
