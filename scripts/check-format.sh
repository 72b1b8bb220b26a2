#!/usr/bin/env bash
# Checks that the C++ code is formatted as .clang-format says; all of it, or the files that are given:
#   scripts/check-format.sh [FILE...]
#
# Without a clang-format it says so and passes; in CI (where CI is set) it fails.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! tool=$(scripts/llvm.sh --path clang-format); then
  [ -z "${CI-}" ] || exit 1
  echo "skipped: the formatting of the C++ code is not checked" >&2
  exit 0
fi
if [ $# -eq 0 ]; then
  mapfile -t files < <(find native -name '*.h' -o -name '*.cc')
else
  files=("$@")
fi
if ! "$tool" --dry-run --Werror "${files[@]}"; then
  echo "error: not formatted as .clang-format says; make format does it" >&2
  exit 1
fi
