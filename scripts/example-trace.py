"""Makes the trace behind docs/images/trace.svg, on a machine without a GPU:

    python scripts/example-trace.py build/trace.json
    python scripts/trace-picture.py build/trace.json docs/images/trace.svg

A file in the shape of a Llama model is read from the disk itself, past the page cache, and copied to a stand-in for a
GPU: the driver library of native/tests/fake_driver, whose copies take the time that a link of a given speed takes. All
else is what it is with a GPU: the plan, the reads, pinned slots, events, and the hand-over. With one, this will do:

    weightstream load MODEL --device cuda:0 --trace build/trace.json
"""

from __future__ import annotations

import argparse
import ctypes
import sys
import tempfile
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch

import weightstream as ws

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from fake_gpu import FakeGpu, fake_gpu  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="the JSON to write")
    parser.add_argument("--layers", type=int, default=5, help="layers of the model, 88 MB each; 262 MB come on top")
    parser.add_argument("--link", type=float, default=6.0, metavar="GB/S", help="what the link to the stand-in carries")
    parser.add_argument("--folder", type=Path, default=Path("build"), help="where to make the file: on a disk")
    options = parser.parse_args()
    demo = demo_module()
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder, pytest.MonkeyPatch.context() as patch:
        path = Path(folder) / "model.safetensors"
        with path.open("wb") as file:
            size = demo.write_llama(file, options.layers)
        with fake_gpu(patch) as gpu:
            reserve(gpu, size, patch)
            gpu.library.fake_set_timing(
                ctypes.c_uint32(10), ctypes.c_uint64(int(options.link * 1e9)), ctypes.c_uint32(5)
            )
            load(path)  # pins the slots, as a process does once
            if not demo.drop_cache(path):
                sys.exit(f"{path} stays in the page cache: name a folder on a disk by --folder")
            gpu.used = 0
            stats = load(path, options.trace)
            print(f"{stats.gigabytes_per_second:.2f} GB/s; {dict(stats.readers)}; {list(stats.reasons.values())}")


def load(path: Path, trace: Path | None = None) -> ws.StreamStats:
    with ws.stream(path, trace=trace) as stream:
        for _, tensor in stream:
            del tensor
        return stream.stats


def reserve(gpu: FakeGpu, size: int, patch: pytest.MonkeyPatch) -> None:
    """Device memory for everything, at once: allocating it takes torch no time, and the stand-in a lot."""
    memory = gpu.library.fake_allocate(ctypes.c_uint64(size + (1 << 20)))
    gpu.used = 0

    def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        nbytes = torch.empty(shape, dtype=dtype, device="meta").nbytes
        part = (ctypes.c_uint8 * nbytes).from_address(memory + gpu.used)
        gpu.used += -(-nbytes // 512) * 512
        return torch.frombuffer(part, dtype=torch.uint8).view(dtype).view(shape)

    patch.setattr(gpu, "empty", empty)


def demo_module() -> ModuleType:
    spec = spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
