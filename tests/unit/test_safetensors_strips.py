"""Parts that lie in strips all over a tensor: which bytes are read for them, and what they are put together to."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import weightstream as ws
from weightstream._tensors import TensorInfo
from weightstream.safetensors import safe_open
from weightstream.safetensors._strips import plan_strips

SHAPE = (3, 4, 5, 2)
ITEMS = [
    [slice(None), 1, slice(0, 2)],
    [slice(None), -1, slice(1, 3), slice(0, 4, 2), slice(3, 1)],
    [slice(None), 0, slice(2, 4)],
    [slice(None), slice(1, 2)],
]


def taken(index: Any, least_gap: int) -> tuple[np.ndarray[Any, Any] | None, int]:
    """The part as it is put together from its strips, and the bytes of these."""
    whole = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    strips = plan_strips(TensorInfo("w", "I16", SHAPE, "f", (100, 100 + whole.nbytes)), index, least_gap)
    if strips is None:
        return None, 0
    data = whole.tobytes()
    parts = [np.frombuffer(data[begin:end], np.int16).reshape(strips.shape) for begin, end in strips.ranges]
    assert strips.ranges == sorted(strips.ranges)
    assert len(parts) > 1
    return np.stack(parts).reshape(strips.stacked)[strips.index], sum(end - begin for begin, end in strips.ranges)


def test_every_combination_is_put_together_right() -> None:
    whole = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
    planned = 0
    for index in itertools.product(*ITEMS):
        part, nbytes = taken(index, 3)
        if part is not None:
            planned += 1
            assert np.array_equal(part, whole[index]), index
            assert nbytes < whole.nbytes
    assert planned > 50


def test_columns_take_only_their_own_bytes() -> None:
    part, nbytes = taken(np.s_[:, 1:3], 8)
    assert part is not None
    assert nbytes == part.nbytes == 3 * 2 * 5 * 2 * 2


@pytest.mark.parametrize(
    "index",
    [np.s_[:], np.s_[1:2], np.s_[1, 2:4], np.s_[:, [0, 1]], np.s_[None], np.s_[:, 4], np.s_[0, 0, 0, 0], np.s_[:, 3:1]],
    ids=repr,
)
def test_what_is_not_read_in_strips(index: Any) -> None:
    assert taken(index, 3) == (None, 0)


def test_narrow_gaps_are_read_through() -> None:
    assert taken(np.s_[:, 1:3], 40) == (None, 0)
    assert taken(np.s_[:, 1:3], 39)[0] is not None


def test_experts_of_a_rank_are_read_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    experts = torch.randn(8, 1024, 256)
    save_file({"experts": experts}, path)
    for rank in range(4):
        with safe_open(path, "pt", backend="pread") as handle:
            part = handle.get_slice("experts")[:, rank * 256 : (rank + 1) * 256]
            assert torch.equal(part, experts[:, rank * 256 : (rank + 1) * 256])
            assert part.nbytes <= handle.stats.bytes_read <= part.nbytes + 8 * 8192


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([("a", 0, 40, (10,)), ("a", 39, 80, (10,))], "parts overlap"),
        ([("a", 0, 401, (100,))], "outside of the tensor"),
        ([("a", 8, 4, (0,))], "outside of the tensor"),
    ],
)
def test_parts_that_are_none(tmp_path: Path, parts: Any, message: str) -> None:
    save_file({"a": torch.arange(100, dtype=torch.int32)}, tmp_path / "m.safetensors")
    with ws.open(tmp_path / "m.safetensors") as checkpoint, pytest.raises(ValueError, match=message):
        checkpoint._stream_of_parts(parts, checkpoint._settings)
