#!/usr/bin/env bash
# Builds the fuzzers in native/fuzz/ and runs them beside each other, for so many seconds of all together:
#   scripts/fuzz.sh 60
#
# native/fuzz/NAME_fuzzer.cc starts from native/fuzz/corpus/NAME/ and uses NAME_fuzzer.dict if there is one. What it
# learns stays in build/fuzz/learned/, an input that breaks something goes to build/fuzz/findings/.
set -euo pipefail

readonly seconds=${1:?usage: scripts/fuzz.sh SECONDS}
cd "$(dirname "$0")/.."
readonly build=build/fuzz
mkdir -p "$build/findings"
PATH="$PWD/.venv/bin:$PATH"

clang=$(scripts/llvm.sh --fuzzing-clang)
fuzzers=()
for source in native/fuzz/*_fuzzer.cc; do
  fuzzers+=("$(basename "$source" .cc)")
done

cmake -S . -B "$build" -G Ninja --log-level=WARNING \
  -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O1 \
  -DWEIGHTSTREAM_PYTHON=OFF -DWEIGHTSTREAM_PRECOMPILE=ON -DWEIGHTSTREAM_FUZZ=ON \
  -DWEIGHTSTREAM_SANITIZE=fuzzer-no-link,address,undefined >"$build/configure.log" 2>&1 || {
  cat "$build/configure.log" >&2
  exit 1
}
cmake --build "$build" -j "${JOBS:-$(nproc)}" --target "${fuzzers[@]}"

run() {
  local fuzzer=$1 learned=$build/learned/$1 log=$build/$1.log dictionary=native/fuzz/$1.dict
  local options=(-max_total_time=$((seconds / ${#fuzzers[@]})) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
    -artifact_prefix="$build/findings/$fuzzer-")
  [ ! -f "$dictionary" ] || options+=(-dict="$dictionary")
  mkdir -p "$learned"
  if "$build/native/fuzz/$fuzzer" "${options[@]}" "$learned" "native/fuzz/corpus/${fuzzer%_fuzzer}" >"$log" 2>&1; then
    echo "$fuzzer: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
  else
    tail -n 60 "$log" >&2
    echo "error: $fuzzer found something; the input lies in $build/findings/" >&2
    return 1
  fi
}

running=()
for fuzzer in "${fuzzers[@]}"; do
  run "$fuzzer" &
  running+=($!)
done
status=0
for one in "${running[@]}"; do
  wait "$one" || status=1
done
exit $status
