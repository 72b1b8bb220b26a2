#!/usr/bin/env bash
# Builds and runs the core's C++ tests under sanitizers:
#   scripts/native-test.sh asan|tsan [--configure-only]
#
# -O1 compiles about twice as fast as -O2 and keeps stack traces readable, for which -g1 is enough; assertions are on.
# Clang compiles instrumented code in about two thirds of GCC's time, and its sanitizers are the newer ones.
set -euo pipefail

case ${1-} in
  asan) sanitizers=address,undefined ;;
  tsan) sanitizers=thread ;;
  *)
    echo "usage: scripts/native-test.sh asan|tsan [--configure-only]" >&2
    exit 2
    ;;
esac

cd "$(dirname "$0")/.."
readonly build=build/native/$1
mkdir -p build/native
PATH="$PWD/.venv/bin:$PATH"

cmake -S . -B "$build" -G Ninja --log-level=WARNING \
  -DCMAKE_CXX_COMPILER="$(scripts/llvm.sh --fuzzing-clang)" \
  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS=-O1 -DCMAKE_CXX_FLAGS_DEBUG=-g1 \
  -DWEIGHTSTREAM_PYTHON=OFF -DWEIGHTSTREAM_TESTS=ON -DWEIGHTSTREAM_PRECOMPILE=ON -DWEIGHTSTREAM_WERROR=ON \
  -DWEIGHTSTREAM_SANITIZE="$sanitizers" >"$build.log" 2>&1 || {
  cat "$build.log" >&2
  exit 1
}
[ "${2-}" = "--configure-only" ] && exit 0
cmake --build "$build" -j "${JOBS:-$(nproc)}"

# Clang's runtimes look for llvm-symbolizer beside clang only, and may be without it.
symbolizer=$(scripts/llvm.sh --path llvm-symbolizer 2>/dev/null || command -v addr2line)
export ASAN_OPTIONS=detect_stack_use_after_return=1:strict_string_checks=1:external_symbolizer_path=$symbolizer
export UBSAN_OPTIONS=print_stacktrace=1:external_symbolizer_path=$symbolizer
export TSAN_OPTIONS="second_deadlock_stack=1:suppressions=$PWD/native/tests/tsan_suppressions.txt"
TSAN_OPTIONS+=:external_symbolizer_path=$symbolizer

# ThreadSanitizer of older compilers cannot place its shadow memory where the kernel randomises addresses widely.
run=()
if [ "$1" = tsan ] && setarch -R true 2>/dev/null; then
  run=(setarch -R)
fi
# The tests wait about as long as they compute.
"${run[@]}" ctest --test-dir "$build/native" --output-on-failure --no-tests=error -j $((2 * ${JOBS:-$(nproc)}))
