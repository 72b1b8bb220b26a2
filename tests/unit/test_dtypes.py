"""Every dtype of the format, in torch and in numpy: dtype, shape, bytes and alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

import weightstream as ws
from checkpoints import DTYPES, Raw, bytes_of, raw, write_file
from weightstream._tensors import DTYPE_BITS

AllDtypes = tuple[Path, dict[str, Raw]]
WHOLE = sorted(name for name, dtype in DTYPES.items() if dtype.bits >= 8)
pytestmark = pytest.mark.usefixtures("no_leaks")


def packed_shape(tensor: Raw) -> tuple[int, ...]:
    """F4: two elements in a byte, the last dimension halved. F6: bytes, flat."""
    if tensor.dtype == "F4":
        return (*tensor.shape[:-1], tensor.shape[-1] // 2)
    return (len(tensor.data),) if DTYPES[tensor.dtype].packed else tensor.shape


def numpy_dtype(name: str) -> np.dtype[Any]:
    name = DTYPES[name].numpy
    return np.dtype(getattr(ml_dtypes, name, name))


def test_the_table_is_complete() -> None:
    assert len(DTYPES) == 22
    assert {name: dtype.bits for name, dtype in DTYPES.items()} == DTYPE_BITS


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch(all_dtypes: AllDtypes, dtype: str) -> None:
    path, tensors = all_dtypes
    weights = ws.load(path, names=lambda name: name.startswith(dtype + "."))
    assert len(weights) == (4 if DTYPES[dtype].bits >= 8 else 3)
    for name, tensor in weights.items():
        assert tensor.dtype == DTYPES[dtype].torch
        assert tuple(tensor.shape) == packed_shape(tensors[name])
        assert bytes_of(tensor) == tensors[name].data


@pytest.mark.parametrize("dtype", DTYPES)
def test_numpy(all_dtypes: AllDtypes, dtype: str) -> None:
    path, tensors = all_dtypes
    weights = ws.load(path, names=lambda name: name.startswith(dtype + "."), framework="numpy")
    assert len(weights) == (4 if DTYPES[dtype].bits >= 8 else 3)
    for name, array in weights.items():
        assert array.dtype == numpy_dtype(dtype)
        assert array.shape == packed_shape(tensors[name])
        assert array.tobytes() == tensors[name].data


def test_torch_as_the_safetensors_package_has_it(all_dtypes: AllDtypes) -> None:
    path, tensors = all_dtypes
    weights = ws.load(path)
    compared = set()
    with safe_open(path, framework="pt") as theirs:
        for name in theirs.keys():  # noqa: SIM118 (it is no mapping)
            if tensors[name].dtype.startswith("F6_"):  # torch has no such dtype, and safetensors refuses
                continue
            tensor = theirs.get_tensor(name)
            assert (weights[name].dtype, weights[name].shape) == (tensor.dtype, tensor.shape), name
            assert bytes_of(weights[name]) == bytes_of(tensor), name
            compared.add(tensors[name].dtype)
    assert compared == set(DTYPES) - {"F6_E2M3", "F6_E3M2"}


@pytest.mark.parametrize("framework", ["pt", "numpy"])
@pytest.mark.parametrize("misalign", [1, 2, 3, 4, 7])
def test_unaligned_data_comes_out_aligned(tmp_path: Path, framework: str, misalign: int) -> None:
    tensors = {f"{dtype}.{n}": raw(dtype, (n,), i) for i, dtype in enumerate(WHOLE) for n in (1, 33)}
    path = write_file(tmp_path / "m.safetensors", tensors, misalign=misalign)
    for name, tensor in ws.load(path, framework=framework).items():
        address = tensor.data_ptr() if framework == "pt" else tensor.ctypes.data
        assert address % (DTYPES[tensors[name].dtype].bits // 8) == 0
        assert bytes_of(tensor) == tensors[name].data
        if framework == "numpy":
            assert tensor.flags.aligned
            assert tensor.flags.writeable


def test_four_bits_pack_along_the_last_dimension(tmp_path: Path) -> None:
    tensors = {
        "even": raw("F4", (3, 4), 0),
        "odd": raw("F4", (4, 3), 1),  # no halved last dimension: bytes, flat
        "empty": raw("F4", (3, 0), 2),
    }
    path = write_file(tmp_path / "m.safetensors", tensors)
    weights = ws.load(path)
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {
        "even": (3, 2),
        "odd": (6,),
        "empty": (3, 0),
    }
    assert all(bytes_of(tensor) == tensors[name].data for name, tensor in weights.items())
    with ws.open(path) as checkpoint:  # the header's shape is in elements
        assert checkpoint["even"].shape == (3, 4)


def test_numpy_without_ml_dtypes(all_dtypes: AllDtypes, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    assert ws.load(all_dtypes[0], names=["F32.row"], framework="numpy")["F32.row"].shape == (20,)
    with pytest.raises(ws.ConfigError, match="dtype BF16 in numpy needs the package ml_dtypes"):
        ws.load(all_dtypes[0], names=["BF16.row"], framework="numpy")


def test_torch_without_a_dtype(all_dtypes: AllDtypes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch, "float8_e8m0fnu")
    with pytest.raises(ws.ConfigError, match="has no dtype float8_e8m0fnu, which F8_E8M0 needs"):
        ws.load(all_dtypes[0], names=["F8_E8M0.row"])
