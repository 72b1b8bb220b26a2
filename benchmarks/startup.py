"""The start-up scenario: a fresh process until it has its first tensor on the device.

torch and its CUDA context are there before a loader begins, as in any program that needs one; what they take is
measured too. Nothing is warm in the process: the loader is imported, and makes its threads and its pinned memory.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import devices
from benchmarks.contenders import CONTENDERS
from benchmarks.files import DataSet

STARTUP = "gpu-start"
QUESTION = "How long does a fresh process take until it has its first tensor on the GPU?"
CONTENDERS_OF = (
    "weightstream",
    "safetensors",
    "safetensors-next-prefetch",
    "runai",
    "fastsafetensors",
    "instanttensor",
)
BASELINE = "safetensors"
_ROOT = Path(__file__).resolve().parent.parent


def run(name: str, data: DataSet, device: str) -> dict[str, Any]:
    """The first tensor of a checkpoint in a fresh process.

    Raises CalledProcessError when that fails, ValueError when the tensor has wrong bytes.
    """
    contender = CONTENDERS[name]
    command = [sys.executable, "-m", "benchmarks.startup", name, device, *map(str, data.files)]
    started = time.monotonic()
    done = subprocess.run(command, input=str(started), capture_output=True, text=True, cwd=_ROOT, timeout=300)
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"{contender.name}: status {done.returncode}"])[-1])
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if data.checksums().get(measured["tensor"]) != measured.pop("checksum"):
        return measured | {"verified": False, "wrong": [measured["tensor"]], "missing": []}
    return measured | {"verified": True}


def _main(name: str, device: str, files: list[str]) -> None:
    started = float(sys.stdin.read())  # time.monotonic() counts from the same moment in all processes
    times = [started, time.monotonic()]

    import torch

    times.append(time.monotonic())
    there = devices.device(device)
    times.append(time.monotonic())
    loader = CONTENDERS[name].loader(device)
    times.append(time.monotonic())
    first, tensor = next(iter(loader.load(files)))
    there.first_is_there()
    times.append(time.monotonic())
    python, torch_import, context, loader_import, load = (after - before for before, after in pairwise(times))
    flat = tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy()
    measured = {
        "seconds": loader_import + load,
        "process_seconds": times[-1] - started,
        "python_seconds": python,
        "torch_seconds": torch_import,
        "context_seconds": context,
        "loader_import_seconds": loader_import,
        "first_tensor": load,
        "tensor": first,
        "tensor_bytes": tensor.nbytes,
        "checksum": zlib.crc32(flat),
        "pinned_bytes": loader.pinned_bytes(),
        "version": loader.version(),
    }
    print("\n" + json.dumps(measured), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], sys.argv[3:])
