"""Tests on a real GPU; without one they are skipped. See benchmarks/README.md for how to run them by themselves."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weightstream as ws
from checkpoints import DTYPES, Raw, raw, write_file
from processes import wait_until
from weightstream import _core

MIB = 1 << 20


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Without a GPU nothing here can run."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU: torch.cuda.is_available() is false")


@pytest.fixture(autouse=True)
def cuda() -> Iterator[str]:
    """The device. Afterwards no pinned memory is left that was asked back."""
    torch.cuda.synchronize()
    yield "cuda:0"
    gc.collect()
    torch.cuda.synchronize()
    ws.release_pinned_memory()
    wait_until(lambda: _core.pinned_bytes() == 0)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """115 MiB: tensors of many reads and of a part of one, small ones of every dtype, and some without elements."""
    tensors = {"empty": raw("F32", (0, 7), 1), "scalar": raw("F64", (), 2), "huge": raw("BF16", (5120, 4096), 3)}
    for i, dtype in enumerate(DTYPES):
        tensors[f"small.{dtype}"] = raw(dtype, (4, 64), 10 + i)
    for i in range(16):
        tensors[f"layer.{i}.weight"] = raw("BF16", (2048 + i, 1024), 100 + i)
        tensors[f"layer.{i}.norm"] = raw("F16", (512,), 200 + i)
        tensors[f"layer.{i}.scales"] = raw("U8", (70_001 + i,), 300 + i)
    path = tmp_path_factory.mktemp("gpu") / "model.safetensors"
    return write_file(path, tensors), tensors


@pytest.fixture(scope="session")
def equal_tensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """32 tensors of 16 MiB each: 512 MiB."""
    tensors = {f"t{i:02}": raw("U8", (16 * MIB,), i) for i in range(32)}
    return write_file(tmp_path_factory.mktemp("equal") / "equal.safetensors", tensors), tensors
