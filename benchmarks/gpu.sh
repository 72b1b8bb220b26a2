#!/usr/bin/env bash
# The GPU tests and the GPU scenarios on a machine that has a GPU and torch, but perhaps no network.
#
#   benchmarks/gpu.sh pack PACK                 with a network: all that the other machine needs, 33 MB
#   benchmarks/gpu.sh run PACK RESULTS PART...  there, in a copy of the checkout
#
# PART is one of: tests, warm, tmpfs, cold, small, start; all is all of them. Each part but the tests leaves a JSON file
# in RESULTS; report.md there has the tables, tests.txt what the tests said. The exit status is 1 if anything failed.
#
#   PYTHON      the interpreter: of `pack` python3.12, of `run` python3. Both have to be of the same minor version
#   WORK        a folder on the disk to measure, with 18 GB free (/var/tmp/weightstream-gpu)
#   TMPFS       a folder on a tmpfs with 18 GB free; without, one is mounted (as root), or /dev/shm is used
#   LAYERS      of the Llama 8B in the large file: 32 are 16.06 GB, 5 are 4.28 GB
#   ROUNDS      how often each contender runs (3)
#   LIMIT       seconds for everything together (570): nothing is begun that would not end by then
#   DEVICE      cuda:0; cpu tries the harness
#   OPTIONS     more options of `python -m benchmarks run`: --tiny, --contenders a,b
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root
readonly PARTS=(tests warm tmpfs start small cold)
declare -rA SCENARIOS=([warm]=gpu-warm [tmpfs]=gpu-tmpfs [cold]=gpu-cold [small]=gpu-small-tensors [start]=gpu-start)

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

pack() {
    local pack=$1 python=${PYTHON:-python3.12} tools platforms=() n
    local version
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    mkdir -p "$pack"
    pack=$(cd "$pack" && pwd)
    rm -rf "${pack:?}"/{wheels,next,lib,native,commit}
    mkdir -p "$pack"/{wheels,next,lib,native/include,native/lib}
    for n in manylinux1 manylinux2014 manylinux_2_{5,12,17,24,27,28,30,31,34,35,39}; do
        platforms+=(--platform "${n}_x86_64")
    done
    local download=("$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all:
        --python-version "$version" --implementation cp "${platforms[@]}")
    "${download[@]}" --dest "$pack/wheels" --requirement "$root/benchmarks/requirements-gpu.txt"
    "${download[@]}" --dest "$pack/next" safetensors==0.9.0rc1

    tools=$(mktemp -d)
    "$python" -m venv "$tools"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check cmake ninja nanobind scikit-build-core
    PATH="$tools/bin:$PATH" "$tools/bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
        --no-build-isolation --config-settings=build-dir="$root/build/gpu-pack/{wheel_tag}" --wheel-dir "$pack/wheels" "$root"
    "$tools/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$pack"/wheels/weightstream-*.whl
    (cd "$tools" && bin/python -c 'import weightstream._core')
    rm -rf "$tools"
    git -C "$root" describe --always --dirty --abbrev=40 --exclude='*' >"$pack/commit"

    # For a machine without libcurl, and for one on which the extension has to be built again.
    local curl
    curl=$(ldconfig -p | awk '/libcurl\.so\.4 .*x86-64/ && !found++ { print $NF }')
    { echo "$curl"; ldd "$curl" | awk '$3 ~ /^\// { print $3 }'; } |
        grep -vE '/(libc|libm|libdl|librt|libpthread|libresolv)\.so' | xargs -I{} cp -L {} "$pack/lib/"
    cp -L "$curl" "$pack/native/lib/libcurl.so"
    local header
    for header in liburing.h liburing simdjson.h curl; do
        cp -r "$(find /usr/include -maxdepth 2 -name "$header" -print -quit)" "$pack/native/include/"
    done
    find /usr/lib \( -name liburing.a -o -name libsimdjson.a \) -exec cp {} "$pack/native/lib/" \;
    du -sh "$pack"
}

# Sets up $WORK, and says with what: the packed wheel, the packed libcurl too, or a build of this checkout.
install() {
    local pack=$1 site=$WORK/site with="the packed wheel"
    local pip=("$PYTHON" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile
        --no-cache-dir --upgrade)
    "${pip[@]}" --target "$site" "$pack"/wheels/*.whl
    "${pip[@]}" --target "$WORK/safetensors-next" "$pack"/next/*.whl
    cp "$pack/commit" "$WORK/weightstream-commit"
    export PYTHONPATH=$site BENCHMARKS_ENVIRONMENT=$WORK
    if ! imports; then
        export LD_LIBRARY_PATH=$pack/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
        with="the packed wheel and libraries"
    fi
    if ! imports; then
        (cd "$root" && CMAKE_PREFIX_PATH=$pack/native "${pip[@]}" --no-build-isolation --target "$site" \
            --config-settings=build-dir="$WORK/build" .)
        with="a build of this checkout"
    fi
    (cd "$WORK" && "$PYTHON" -c 'import weightstream._core')
    echo "weightstream from $with, $SECONDS s"
}

imports() { (cd "$WORK" && "$PYTHON" -c 'import weightstream._core') 2>/dev/null; }

left() { echo $((LIMIT - SECONDS - ${1:-0})); }

tests() {
    # Not the plugins, warnings and servers of the whole suite: only what this machine has to have.
    (cd "$root" && PYTHONPATH=$PYTHONPATH:$root/tests PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 \
        timeout -s INT -k 20 "$(left)" "$PYTHON" -m pytest -p pytest_timeout -p no:cacheprovider -o filterwarnings=default \
        --confcutdir tests/gpu --durations 8 tests/gpu) 2>&1 | tee "$RESULTS/tests.txt"
}

tmpfs() {
    local folder=${TMPFS:-}
    if [[ -z "$folder" ]]; then
        folder=$WORK/tmpfs
        mkdir -p "$folder"
        mountpoint --quiet "$folder" || mount -t tmpfs -o size=20g weightstream-benchmarks "$folder" 2>/dev/null ||
            folder=/dev/shm/weightstream-gpu # which the caller empties himself
    fi
    mkdir -p "$folder"
    echo "$folder"
}

scenario() {
    local data=$WORK/data
    # Of one large file and a copy of it: writing anew takes longer.
    if [[ $1 == tmpfs ]]; then
        # shellcheck disable=SC2046 # nothing or a word
        "$PYTHON" -m benchmarks data llama-file primer --data "$data" --layers "$LAYERS" $(tiny)
        local memory
        memory=$(tmpfs)
        cp -ru "$data"/*llama-file "$data"/*primer "$memory"
        data=$memory
    fi
    # shellcheck disable=SC2086 # OPTIONS are words
    timeout -s INT -k 20 "$(left 5)" "$PYTHON" -m benchmarks run "${SCENARIOS[$1]}" --device "$DEVICE" --layers "$LAYERS" \
        --rounds "$ROUNDS" --seconds "$(left 30)" --data "$data" --results "$RESULTS" ${OPTIONS:-}
}

tiny() { if [[ " ${OPTIONS:-} " == *" --tiny "* ]]; then echo --tiny; fi; }

run() {
    local pack=$1 part status=0
    pack=$(cd "$1" && pwd)
    mkdir -p "$2"
    RESULTS=$(cd "$2" && pwd)
    shift 2
    export PYTHON=${PYTHON:-python3} WORK=${WORK:-/var/tmp/weightstream-gpu} DEVICE=${DEVICE:-cuda:0}
    LAYERS=${LAYERS:-32} ROUNDS=${ROUNDS:-3} LIMIT=${LIMIT:-570}
    mkdir -p "$WORK/data"
    WORK=$(cd "$WORK" && pwd)
    install "$pack"
    cd "$root"
    [[ "$*" != all ]] || set -- "${PARTS[@]}"
    for part in "$@"; do
        if (($(left 40) < 0)); then
            echo "$part: no time left" >&2
            status=1
            continue
        fi
        echo "== $part, at $SECONDS s"
        if [[ $part == tests ]]; then
            tests || status=1
        else
            scenario "$part" || status=1
        fi
    done
    if compgen -G "$RESULTS/*.json" >/dev/null; then
        "$PYTHON" -m benchmarks report --results "$RESULTS" --output "$RESULTS/report.md"
        rm -f "$RESULTS"/*-gpu-*.md
    fi
    if mountpoint --quiet "$WORK/tmpfs"; then umount "$WORK/tmpfs"; fi
    echo "== done, at $SECONDS s, status $status"
    return $status
}

case "${1:-}" in
    pack)
        [[ $# == 2 ]] || usage
        pack "$2"
        ;;
    run)
        [[ $# -ge 4 ]] || usage
        shift
        for part in "${@:3}"; do
            [[ " all ${PARTS[*]} " == *" $part "* ]] || usage
        done
        run "$@"
        ;;
    *) usage ;;
esac
