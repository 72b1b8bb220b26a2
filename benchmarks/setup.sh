#!/usr/bin/env bash
# Makes an environment of its own for the benchmarks: the peers, pinned, and weightstream built from this tree.
#
#   benchmarks/setup.sh [--peers-only] [FOLDER]        FOLDER is benchmarks/.venv when it is not given
#
# PYTHON names the interpreter (python3 otherwise; 3.11 or newer). Run it again after a change to rebuild weightstream.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
peers_only=false
if [[ "${1:-}" == --peers-only ]]; then
    peers_only=true
    shift
fi
environment=${1:-$here/.venv}
pip=("$environment/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps)

[[ -x "$environment/bin/python" ]] || "${PYTHON:-python3}" -m venv "$environment"
"${pip[@]}" --requirement "$here/requirements.txt"

# The next release of safetensors is a contender too, in a folder that only its worker puts on its path.
next=$environment/safetensors-next
if [[ ! -d "$next" ]]; then
    "${pip[@]}" --target "$next" safetensors==0.9.0rc1
fi

# What the peers are compared with over HTTP, and the server of the slow links.
"$here/tools/build.sh" "$environment/benchmark-tools"

if ! $peers_only; then
    "${pip[@]}" --no-build-isolation --force-reinstall --config-settings=build-dir="$root/build/bench" "$root"
    # Results tell which commit was built, which need not be the one that is checked out when they are measured.
    git -C "$root" describe --always --dirty --abbrev=40 --exclude='*' >"$environment/weightstream-commit" || true
fi

if "$environment/bin/python" -m pip list --disable-pip-version-check 2>/dev/null | grep --quiet '^nvidia-'; then
    echo "CUDA packages came along; the list in benchmarks/requirements.txt is to blame" >&2
    exit 1
fi
{ command -v nginx || PATH=/usr/sbin:/sbin command -v nginx; } >/dev/null ||
    echo "nginx is not installed (Debian, Ubuntu: apt-get install nginx-light): http scenarios will not run" >&2
command -v openssl >/dev/null || echo "openssl is not installed: https-loopback will not run" >&2
command -v fio >/dev/null || echo "fio is not installed: the disk's own limit will be left out" >&2
ldconfig -p | grep --quiet libsodium || echo "libsodium is not installed: tensorizer will not start" >&2
echo "ready: $environment/bin/python -m benchmarks list   (in $root)"
