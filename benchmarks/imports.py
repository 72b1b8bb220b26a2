"""The import-time scenario: what a fresh process pays to import each library, and what comes along."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

IMPORT_TIME = "import-time"
QUESTION = "How long does a fresh process take to import each library, and does torch come along?"
BASELINE = "safetensors"

STATEMENTS = {
    "weightstream": "import weightstream",
    "safetensors": "import safetensors",
    "safetensors-torch": "import safetensors.torch",
    "runai": "import runai_model_streamer",
    "fastsafetensors": "import fastsafetensors",
    "tensorizer": "import tensorizer",
    "torch": "import torch",
}
_DISTRIBUTIONS = {"runai": "runai-model-streamer", "safetensors-torch": "safetensors"}

_TIMED = """
import json, resource, sys, time
before, start = set(sys.modules), time.perf_counter()
{statement}
seconds = time.perf_counter() - start
usage = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps(dict(
    seconds=seconds, cpu=usage.ru_utime + usage.ru_stime, modules=len(set(sys.modules) - before),
    torch="torch" in sys.modules, numpy="numpy" in sys.modules, peak=usage.ru_maxrss * 1024,
)))
"""


def missing(name: str) -> str | None:
    """Why the import cannot be measured, or None; raises ValueError for a name that is not known."""
    if name not in STATEMENTS:
        raise ValueError(f"unknown import {name}; there are {', '.join(STATEMENTS)}")
    package = STATEMENTS[name].split()[1].partition(".")[0]
    return None if find_spec(package) else f"the package {package} is not installed"


def run(name: str) -> dict[str, Any]:
    """Import one library in a fresh process; raises CalledProcessError when that fails."""
    start = time.perf_counter()
    command = [sys.executable, "-c", _TIMED.format(statement=STATEMENTS[name])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    process_seconds = time.perf_counter() - start
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured | {"process_seconds": process_seconds, "version": _version(name)}


def slowest(name: str, count: int = 10) -> list[dict[str, Any]]:
    """The modules that cost most by themselves, by `python -X importtime`, in microseconds."""
    command = [sys.executable, "-X", "importtime", "-c", STATEMENTS[name]]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stderr.splitlines()
    modules: list[dict[str, Any]] = []
    for line in lines:
        own, _, rest = line.removeprefix("import time:").partition("|")
        total, _, module = rest.partition("|")
        if own.strip().isdigit():
            modules.append({"module": module.strip(), "own_us": int(own), "total_us": int(total)})
    return sorted(modules, key=lambda module: -module["own_us"])[:count]


def _version(name: str) -> str:
    try:
        return version(_DISTRIBUTIONS.get(name, name))
    except PackageNotFoundError:
        return ""
