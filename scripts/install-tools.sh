#!/usr/bin/env bash
# Installs into a virtual environment what pyproject.toml lists for a purpose:
#   scripts/install-tools.sh .venv/bin/python build    what building needs
#   scripts/install-tools.sh .venv/bin/python test     what testing and linting need beside that
set -euo pipefail

python=${1:?usage: scripts/install-tools.sh PYTHON build|test}

# Without compiling: most modules of the large packages are never imported.
install() { "$python" -m pip install -qq --no-compile "$@"; }

case ${2-} in
  build)
    # Dependency groups need pip 25.1. cmake and ninja come as packages, so that the system's own do not matter.
    install --upgrade "pip>=25.1"
    mapfile -t build_requirements < <("$python" scripts/build-requirements.py)
    install "${build_requirements[@]}" cmake ninja
    ;;
  test) install --group test --group lint ;;
  *)
    echo "usage: scripts/install-tools.sh PYTHON build|test" >&2
    exit 2
    ;;
esac
