"""Handles whose tensors go to a GPU, through the fake driver: walked, in parts, all at once, and prefetched."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from checkpoints import DTYPES, Raw, assert_same, blocks, bytes_of, raw, write_file
from fake_gpu import FakeGpu, fake_gpu
from weightstream.safetensors import safe_open

MIB = 1 << 20
Model = tuple[Path, dict[str, Raw]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:
        yield made
        gc.collect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    tensors = {
        "large": raw("F32", (64, MIB // 64), 1),
        "experts": raw("BF16", (4, 256, 512), 2),
        "scalar": raw("I64", (), 3),
    }
    tensors |= {f"small.{dtype}": raw(dtype, (4, 64), 10 + i) for i, dtype in enumerate(DTYPES) if dtype[:2] != "F6"}
    return write_file(tmp_path_factory.mktemp("device") / "m.safetensors", tensors), tensors


def whole(tensor: Raw) -> torch.Tensor:
    return torch.frombuffer(bytearray(tensor.data), dtype=DTYPES[tensor.dtype].torch).view(tensor.shape)


def test_a_walk(gpu: FakeGpu, model: Model) -> None:
    path, tensors = model
    with safe_open(path, "pt", backend="pread") as handle:
        assert_same({name: handle.get_tensor(name) for name in handle.offset_keys()}, tensors)
        assert handle.stats.read_ahead == len(tensors) - 1
    assert gpu.counts().copied_bytes > 5 * MIB


def test_a_walk_further_than_a_window(gpu: FakeGpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEIGHTSTREAM_MEMORY_LIMIT", "64MiB")
    tensors = blocks(48, MIB)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with safe_open(path, "pt", backend="pread") as handle:
        names = handle.offset_keys()
        got = {name: handle.get_tensor(name) for name in names[:3]}
        time.sleep(0.2)
        assert gpu.counts().copied_bytes <= 24 * MIB  # so far ahead, and no further
        got |= {name: handle.get_tensor(name) for name in names[3:]}
        assert_same(got, tensors)
        assert handle.stats.read_ahead == 47


def test_all_at_once(gpu: FakeGpu, model: Model) -> None:
    with safe_open(model[0], "pt", backend="pread") as handle:
        assert_same(handle.get_tensors(), model[1])
    assert gpu.counts().copied_bytes > 5 * MIB


def test_parts(gpu: FakeGpu, model: Model) -> None:
    path, tensors = model
    with safe_open(path, "pt", backend="pread") as handle:
        for name, index in (
            ("large", slice(8, 24)),
            ("experts", (slice(None), slice(64, 128))),
            ("large", (3, slice(5, 9))),
        ):
            part = handle.get_slice(name)[index]
            assert bytes_of(part) == bytes_of(whole(tensors[name])[index])
            assert part.untyped_storage().nbytes() == part.nbytes


def test_prefetch(gpu: FakeGpu, model: Model) -> None:
    path, tensors = model
    with safe_open(path, "pt") as handle:
        plan = dict.fromkeys(tensors) | {"large": slice(16, 32), "small.F4": slice(1, 3)}
        with handle.prefetch(plan) as loader:
            got = dict(loader)
    assert bytes_of(got.pop("large")) == bytes_of(whole(tensors["large"])[16:32])
    assert bytes_of(got.pop("small.F4")) == tensors["small.F4"].data[32:96]
    assert_same(got, {name: tensor for name, tensor in tensors.items() if name not in ("large", "small.F4")})
    assert gpu.counts().copied_bytes > 2 * MIB
