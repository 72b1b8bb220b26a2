"""Slices: what the framework's own indexing gives, read no further than leading dimensions ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

import weightstream as ws
from checkpoints import raw, write_file, write_sparse
from weightstream import _checkpoint

SHAPE = (7, 5, 6)
MIB = 2**20
pytestmark = pytest.mark.usefixtures("no_leaks")

INDEXES: list[Any] = [
    slice(None),
    slice(0, 3),
    slice(2, 2),
    slice(5, 2),
    slice(3, 100),
    slice(-100, 2),
    slice(-3, None),
    slice(None, -2),
    slice(1, 7, 2),
    slice(None, None, 3),
    slice(100, 200),
    slice(True, np.int64(4)),
    0,
    -1,
    6,
    -7,
    np.int32(3),
    np.array(2),
    torch.tensor(4),
    None,
    ...,
    (),
    True,
    False,
    [0, 2, 2],
    [-1],
    [],
    [True, False, True, False, False, True, False],
    torch.tensor([1, 3]),
    np.array([6, 0]),
    (1, 2, 3),
    (1, 2),
    (-1, slice(1, 3)),
    (slice(1, 3), 2),
    (slice(1, 3), slice(0, 4, 2), slice(-2, None)),
    (slice(2, 4), ..., 0),
    (3, ..., slice(0, 2)),
    (..., 1),
    (None, 2),
    (2, None, slice(1, 3)),
    (slice(1, 4), None),
    (1, [0, 2]),
    (1, slice(None), [0, 2]),
    ([0, 1], 2),
    (slice(0, 4), [1, 3], 2),
    (2, [True, False, True, False, True]),
    (0, ..., None, 3),
    (slice(3, 3), 1),
]
TOO_FAR: list[Any] = [7, -8, (0, 5), (0, 0, -7), (1, 1, 1, 1), [7], (slice(0, 2), 9), (..., 6), (0, 0, 0, ..., 0)]


class Both:
    """The same tensor by weightstream and as the framework has it."""

    def __init__(self, path: Path, framework: str) -> None:
        self.checkpoint = ws.open(path, framework=framework)
        self.slice = self.checkpoint.get_slice("t")
        self.whole = self.checkpoint.get_tensor("t")

    def compare(self, index: Any) -> None:
        expected = self.whole[index]
        got = self.slice[index]
        assert tuple(got.shape) == tuple(expected.shape)
        assert got.dtype == expected.dtype
        if isinstance(got, torch.Tensor):
            assert torch.equal(got, expected)
            assert got.untyped_storage().nbytes() == got.nbytes
            assert got.storage_offset() == 0
            assert got.is_contiguous()
        else:
            assert np.array_equal(got, expected)
            assert got.flags.c_contiguous
            assert got.flags.writeable


@pytest.fixture(scope="module", params=["pt", "numpy"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    path = tmp_path_factory.mktemp("slices") / "m.safetensors"
    pair = Both(write_file(path, {"t": raw("I32", SHAPE, 1)}), request.param)
    yield pair
    pair.checkpoint.close()


@pytest.mark.parametrize("index", INDEXES, ids=repr)
def test_like_the_framework(both: Both, index: Any) -> None:
    if isinstance(both.whole, np.ndarray) and isinstance(index, torch.Tensor):
        index = index.numpy()
    both.compare(index)


@pytest.mark.parametrize("index", TOO_FAR, ids=repr)
def test_too_far_is_an_index_error(both: Both, index: Any) -> None:
    for tensor in (both.whole, both.slice):
        with pytest.raises(IndexError):
            tensor[index]


def test_masks_and_floats_are_no_positions(both: Both) -> None:
    if isinstance(both.whole, torch.Tensor):
        both.compare(torch.tensor(True))
        odd: list[Any] = [torch.tensor(1.5), "x", 1.5, slice(None, None, -1), slice(None, None, 0)]
    else:
        both.compare(np.array(True))
        both.compare(np.True_)
        both.compare(slice(None, None, -2))
        odd = [np.array(1.5), "x", 1.5, slice(None, None, 0)]
    for index in odd:
        with pytest.raises((IndexError, TypeError, ValueError)) as theirs:
            both.whole[index]
        with pytest.raises(theirs.type):
            both.slice[index]


POSITIONS = st.integers(-9, 9)
SLICES = st.builds(slice, st.none() | POSITIONS, st.none() | POSITIONS, st.none() | st.integers(1, 4))
LISTS = st.lists(st.integers(-5, 4), max_size=3)
ITEMS = POSITIONS | SLICES | st.none() | st.just(...) | LISTS
ANY_INDEX = ITEMS | st.lists(ITEMS, max_size=4).map(tuple)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(index=ANY_INDEX)
def test_like_the_framework_whatever_the_index(both: Both, index: Any) -> None:
    try:
        expected = both.whole[index]
    except IndexError:
        with pytest.raises(IndexError):
            both.slice[index]
    else:
        assert expected is not None
        both.compare(index)


def test_scalars_and_empty_tensors(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = saved
    with ws.open(path) as checkpoint:
        for name in ("scale", "empty", "empty.rows", "empty.columns"):
            part = checkpoint.get_slice(name)
            for index in (..., (), None, slice(0, 2), 0, (slice(None), slice(1, 3)), (0, 0)):
                try:
                    expected = tensors[name][index]
                except IndexError:
                    with pytest.raises(IndexError):
                        part[index]
                else:
                    assert part[index].shape == expected.shape
                    assert torch.equal(part[index], expected)


def test_what_it_says_of_the_tensor(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = saved
    with ws.open(path) as checkpoint, safe_open(path, framework="pt") as theirs:
        for name in tensors:
            part = checkpoint.get_slice(name)
            assert part.get_shape() == theirs.get_slice(name).get_shape()
            assert part.get_dtype() == theirs.get_slice(name).get_dtype()
        assert repr(checkpoint.get_slice("embed.weight")) == "TensorSlice('embed.weight', F32, (37, 11))"


def test_like_the_safetensors_package(saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    indexes: list[Any] = [slice(2, 9), slice(30, 99), (slice(None), slice(3, 5)), (slice(1, 2), 4), -1, ...]
    with ws.open(saved[0]) as checkpoint, safe_open(saved[0], framework="pt") as theirs:
        for index in indexes:
            ours = checkpoint.get_slice("embed.weight")[index]
            assert torch.equal(ours, theirs.get_slice("embed.weight")[index])


@pytest.mark.parametrize("framework", ["pt", "numpy"])
def test_every_dtype(all_dtypes: tuple[Path, Any], framework: str) -> None:
    path, tensors = all_dtypes
    with ws.open(path, framework=framework) as checkpoint:
        for name in tensors:
            if not name.endswith(".matrix"):
                continue
            whole = checkpoint.get_tensor(name)
            part = checkpoint.get_slice(name)
            rows = slice(1, 3) if whole.ndim > 1 else slice(5, 20)
            expected, got = whole[rows], part[rows]
            if framework == "pt":
                assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))
            else:
                assert got.tobytes() == expected.tobytes()
            assert got.dtype == expected.dtype


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes that each stream read, of those that were closed."""
    counts: list[int] = []

    class Counting(_checkpoint.TensorStream):
        def close(self) -> None:
            if not self.closed:
                super().close()
                counts.append(self.stats.bytes_read)

    monkeypatch.setattr(_checkpoint, "TensorStream", Counting)
    return counts


@pytest.mark.parametrize(
    ("index", "needs"),
    [
        (slice(10, 14), 4 * MIB),
        (17, MIB),
        (-1, MIB),
        ((3, slice(0, 64)), 64 * 1024),
        ((slice(60, 99), 5), 4 * MIB),
        (slice(2, 12, 3), 10 * MIB),
        ((5, 7), 1024),
        ((5, 7, 9), 4),
        (slice(4, 4), 0),
        ((), 64 * MIB),
    ],
    ids=repr,
)
def test_it_reads_what_leading_dimensions_ask_for(tmp_path: Path, read: list[int], index: Any, needs: int) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {"before": ("U8", (MIB,)), "t": ("F32", (64, 1024, 256))})
    with ws.open(path) as checkpoint:
        part = checkpoint.get_slice("t")[index]
    assert part.shape == torch.empty(64, 1024, 256, device="meta")[index].shape
    assert len(read) == 1
    assert needs <= read[0] <= needs + 2 * 4096
