"""Fixtures that the tests share."""

from __future__ import annotations

import functools
import gc
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import weightstream as ws
from checkpoints import DTYPES, Raw, raw, write_file, write_shards
from processes import core_threads, descriptors

pytest_plugins = ["servers.fixtures"]


@functools.cache
def _uring_refusal() -> str:
    """Why there is no io_uring here, if there is none: many sandboxes refuse it."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder) / "m.safetensors", {"a": raw("U8", (1,), 0)})
        try:
            ws.load(path, backend="uring", framework="numpy")
        except ws.ConfigError as error:
            return str(error)
    return ""


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips the tests of io_uring where the kernel refuses it."""
    parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    if parameters.get("backend") == "uring" and _uring_refusal():
        pytest.skip(_uring_refusal())


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of whoever runs the tests."""
    for variable in [name for name in os.environ if name.startswith(("WEIGHTSTREAM_", "RUNAI_STREAMER_"))]:
        monkeypatch.delenv(variable)


@pytest.fixture
def no_leaks() -> Iterator[Callable[[], None]]:
    """Afterwards, and whenever it is called: no thread of the core, and no descriptor that was not there before."""
    before = Counter(descriptors())

    def leaks() -> list[str]:
        return [*core_threads(), *(Counter(descriptors()) - before).elements()]

    def check() -> None:
        assert leaks() == []

    yield check
    if leaks():  # collecting takes its time: only where something may hang in a cycle
        gc.collect()
        check()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    """A file that the safetensors package wrote, of odd shapes, scalars and empty tensors, and what is in it."""
    generator = torch.Generator().manual_seed(1)
    tensors = {
        "embed.weight": torch.randn(37, 11, generator=generator),
        "layers.0.weight": torch.randn(3, 5, 7, generator=generator).to(torch.bfloat16),
        "layers.0.bias": torch.randn(5, generator=generator).to(torch.float16),
        "layers.1.weight": torch.randn(2, 3, 4, 5, 6, generator=generator).to(torch.float8_e4m3fn),
        "counts": torch.arange(-4, 9, dtype=torch.int64),
        "mask": torch.arange(21).reshape(7, 3) % 2 == 0,
        "phase": torch.randn(4, 3, dtype=torch.complex64, generator=generator),
        "scale": torch.tensor(0.1875),
        "step": torch.tensor(7, dtype=torch.int32),
        "empty": torch.empty(0),
        "empty.rows": torch.empty(0, 13, dtype=torch.float64),
        "empty.columns": torch.empty(13, 0, dtype=torch.uint8),
        "big": torch.randn(700, 800, generator=generator),
    }
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "author": "Ünal"})
    return path, tensors


@pytest.fixture(scope="session")
def all_dtypes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """A file with a matrix, a row, a scalar and an empty tensor of every dtype of the format, and what is in it."""
    tensors = {}
    for seed, (dtype, what) in enumerate(DTYPES.items()):
        tensors[f"{dtype}.matrix"] = raw(dtype, (6, 12), 10 * seed)
        tensors[f"{dtype}.row"] = raw(dtype, (20,), 10 * seed + 1)
        tensors[f"{dtype}.empty"] = raw(dtype, (0, 4), 10 * seed + 2)
        if what.bits >= 8:
            tensors[f"{dtype}.scalar"] = raw(dtype, (), 10 * seed + 3)
    return write_file(tmp_path_factory.mktemp("dtypes") / "dtypes.safetensors", tensors), tensors


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    """A directory of twelve shards of two tensors each, with an index, and what is in it."""
    files = {
        f"model-{i}-of-12.safetensors": {
            f"layer.{i}.weight": raw("F32", (8, i), i),
            f"layer.{i}.bias": raw("BF16", (i,), 100 + i),
        }
        for i in range(1, 13)
    }
    folder = write_shards(tmp_path / "sharded", files, "model.safetensors.index.json")
    return folder, {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
