#!/usr/bin/env bash
# Installs into a virtual environment what building and testing weightstream needs, as pyproject.toml lists it:
#   scripts/install-tools.sh .venv/bin/python
set -euo pipefail

python=${1:?usage: scripts/install-tools.sh PYTHON}

# Dependency groups need pip 25.1. cmake and ninja come as packages, so that the system's own do not matter.
"$python" -m pip install -qq --upgrade "pip>=25.1"
mapfile -t build_requirements < <("$python" scripts/build-requirements.py)
"$python" -m pip install -qq "${build_requirements[@]}" cmake ninja --group test --group lint
