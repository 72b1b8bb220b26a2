"""get_slice(name)[index]: the same part, or the same error, as the safetensors package gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from differential.handles import OURS, THEIRS, outcome
from weightstream.safetensors import safe_open

BACKENDS = ["mmap", "pread"]

INDEXES: dict[str, Any] = {
    "int": np.s_[0],
    "negative-int": np.s_[-1],
    "past-the-end": np.s_[2],
    "before-the-begin": np.s_[-3],
    "all": np.s_[:],
    "ellipsis": np.s_[...],
    "nothing": (),
    "rows": np.s_[0:1],
    "rows-that-clamp": np.s_[0:100],
    "rows-beyond": np.s_[5:9],
    "no-rows": np.s_[1:0],
    "last-row": np.s_[-1:],
    "negative-rows": np.s_[-2:-1],
    "rows-from-far-before": np.s_[-10:],
    "but-the-last": np.s_[:-1],
    "step": np.s_[0:2:2],
    "step-zero": np.s_[0:2:0],
    "step-negative": np.s_[::-1],
    "columns": np.s_[:, 1:3],
    "columns-step": np.s_[:, ::2],
    "columns-none": np.s_[:, 3:1],
    "column": np.s_[:, 0],
    "last-column": np.s_[:, -1],
    "column-before": np.s_[:, -4],
    "column-past": np.s_[:, 4],
    "inner": np.s_[..., 1:3],
    "innermost": np.s_[..., 0],
    "middle": np.s_[:, 1:2, 2:4],
    "row-then-all": np.s_[0, ...],
    "scalar": np.s_[0, 0, 0],
    "all-three": np.s_[:, :, :],
    "too-many": np.s_[0, 0, 0, 0],
    "too-many-slices": np.s_[:, :, :, :],
    "two-ellipses": np.s_[..., ...],
    "none": None,
    "none-after": np.s_[:, None],
    "none-before": np.s_[None, 0],
    "none-last": np.s_[0, :, None],
    "true": True,
    "true-after": np.s_[:, True],
    "list": [0, 1],
    "list-empty": [],
    "list-of-columns": np.s_[:, [0, 2]],
    "list-past": np.s_[:, [5]],
    "list-negative": np.s_[:, [-1]],
    "two-lists": np.s_[[0, 1], [0, 1]],
    "mask": [True, False],
    "tuple-in-tuple": np.s_[:, (0, 1)],
    "tensor": torch.tensor([0, 1]),
    "array": np.array([0, 1]),
    "numpy-int": np.int64(1),
    "torch-int": torch.tensor(1),
    "slice-of-numpy-ints": np.s_[np.int64(0) : np.int64(1)],
    "slice-of-torch-ints": np.s_[torch.tensor(0) : torch.tensor(1)],
    "range": range(1),
    "float": 1.5,
    "slice-of-floats": np.s_[0:1.5],
    "slice-of-text": np.s_["a":],
    "text": "x",
}
# Where theirs fails by accident, ours does what numpy does: bounds that count from the end, no rows at all.
NUMPY_ALONE = {"no-rows", "last-row", "negative-rows", "rows-from-far-before", "but-the-last"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slices") / "m.safetensors"
    tensors = {
        "w": torch.arange(24).reshape(2, 3, 4).float(),
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "half": torch.arange(60).reshape(6, 10).to(torch.bfloat16),
    }
    save_file(tensors, path)
    return path


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", INDEXES.values(), ids=INDEXES)
def test_torch(path: Path, index: Any, backend: str) -> None:
    theirs, ours = THEIRS(path, "pt").get_slice("w"), OURS(path, "pt", backend=backend).get_slice("w")
    got = outcome(lambda: ours[index])
    assert got == outcome(lambda: theirs[index])
    if isinstance(got[0], type):
        return
    part = ours[index]
    assert part.untyped_storage().nbytes() == part.nbytes  # theirs keeps the whole tensor
    assert part.storage_offset() == 0
    assert part.is_contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", INDEXES)
def test_numpy(path: Path, name: str, backend: str) -> None:
    index = INDEXES[name]
    theirs, ours = THEIRS(path, "np").get_slice("w"), OURS(path, "np", backend=backend).get_slice("w")
    expected = outcome(lambda: theirs[index])
    if name in NUMPY_ALONE:
        assert expected[0] in (OverflowError, SystemError)
        expected = outcome(lambda: THEIRS(path, "np").get_tensor("w")[index])
    assert outcome(lambda: ours[index]) == expected


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", [np.s_[:], np.s_[...], (), 0, np.s_[0:1], None], ids=repr)
@pytest.mark.parametrize("name", ["scalar", "empty"])
def test_scalars_and_empty_tensors(path: Path, name: str, index: Any, backend: str) -> None:
    theirs, ours = THEIRS(path, "pt").get_slice(name), OURS(path, "pt", backend=backend).get_slice(name)
    assert outcome(lambda: ours[index]) == outcome(lambda: theirs[index])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("index", [np.s_[:], np.s_[...], (), 0, [], np.s_[0:1], None], ids=repr)
def test_scalars_of_numpy(path: Path, index: Any, backend: str) -> None:
    theirs, ours = THEIRS(path, "np").get_slice("scalar"), OURS(path, "np", backend=backend).get_slice("scalar")
    assert outcome(lambda: ours[index]) == outcome(lambda: theirs[index])


@pytest.mark.parametrize("backend", BACKENDS)
def test_numpy_takes_all_of_an_empty_tensor(path: Path, backend: str) -> None:
    # Theirs says that index 0 is out of bounds, of what get_tensor returns.
    part = OURS(path, "np", backend=backend).get_slice("empty")
    assert part[:].shape == part[...].shape == (0, 4)
    with pytest.raises(safetensors.SafetensorError, match="index 0 out of bounds"):
        part[0]


def bounds(size: int) -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(-2 * size, 2 * size)


def items(size: int) -> st.SearchStrategy[Any]:
    return st.integers(-size, size - 1) | st.builds(slice, bounds(size), bounds(size), st.none() | st.integers(1, 3))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_basic_index(path: Path, data: st.DataObject) -> None:
    index = tuple(data.draw(items(size)) for size in (2, 3, 4)[: data.draw(st.integers(0, 3))])
    if data.draw(st.booleans()):
        index = (*index[: data.draw(st.integers(0, len(index)))], ..., *index[len(index) :])
    expected = outcome(lambda: torch.from_numpy(np.array(np.arange(24, dtype=np.float32).reshape(2, 3, 4)[index])))
    for backend in BACKENDS:
        assert outcome(lambda b=backend: safe_open(path, "pt", backend=b).get_slice("w")[index]) == expected
