"""Checkpoints for the tests. Their contents depend on the position, so that bytes from the wrong place show."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Dtype:
    """What a dtype of the format is elsewhere. `packed`: of sub-byte dtypes, what a framework is handed."""

    bits: int
    torch: torch.dtype
    numpy: str
    packed: bool = False


DTYPES = {
    "BOOL": Dtype(8, torch.bool, "bool"),
    "F4": Dtype(4, torch.float4_e2m1fn_x2, "uint8", packed=True),
    "F6_E2M3": Dtype(6, torch.uint8, "uint8", packed=True),
    "F6_E3M2": Dtype(6, torch.uint8, "uint8", packed=True),
    "U8": Dtype(8, torch.uint8, "uint8"),
    "I8": Dtype(8, torch.int8, "int8"),
    "F8_E5M2": Dtype(8, torch.float8_e5m2, "float8_e5m2"),
    "F8_E4M3": Dtype(8, torch.float8_e4m3fn, "float8_e4m3fn"),
    "F8_E8M0": Dtype(8, torch.float8_e8m0fnu, "float8_e8m0fnu"),
    "F8_E4M3FNUZ": Dtype(8, torch.float8_e4m3fnuz, "float8_e4m3fnuz"),
    "F8_E5M2FNUZ": Dtype(8, torch.float8_e5m2fnuz, "float8_e5m2fnuz"),
    "I16": Dtype(16, torch.int16, "int16"),
    "U16": Dtype(16, torch.uint16, "uint16"),
    "F16": Dtype(16, torch.float16, "float16"),
    "BF16": Dtype(16, torch.bfloat16, "bfloat16"),
    "I32": Dtype(32, torch.int32, "int32"),
    "U32": Dtype(32, torch.uint32, "uint32"),
    "F32": Dtype(32, torch.float32, "float32"),
    "C64": Dtype(64, torch.complex64, "complex64"),
    "F64": Dtype(64, torch.float64, "float64"),
    "I64": Dtype(64, torch.int64, "int64"),
    "U64": Dtype(64, torch.uint64, "uint64"),
}


@dataclass(frozen=True)
class Raw:
    """A tensor as it is in a file."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def pattern(nbytes: int, seed: int) -> bytes:
    """Bytes of which no two stretches are alike."""
    return np.random.default_rng(seed).bytes(nbytes)


def raw(dtype: str, shape: tuple[int, ...], seed: int) -> Raw:
    """A tensor with contents of its own."""
    elements = int(np.prod(shape, dtype=np.int64))
    assert elements * DTYPES[dtype].bits % 8 == 0, "the format has whole bytes only"
    data = pattern(elements * DTYPES[dtype].bits // 8, seed)
    if dtype == "BOOL":
        data = bytes(byte & 1 for byte in data)
    return Raw(dtype, shape, data)


def write_file(
    path: Path, tensors: Mapping[str, Raw], metadata: Mapping[str, str] | None = None, misalign: int | None = None
) -> Path:
    """Writes a safetensors file by hand. The data begins at a multiple of 8, plus `misalign` where that is given."""
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": dict(metadata)}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + len(tensor.data)
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8 + (misalign or 0))
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(tensor.data)
    return path


def write_sparse(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> Path:
    """Writes a file whose data is a hole: any size, no space on the disk, and all tensors are zero."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        elements = 1
        for dim in shape:
            elements *= dim
        end = offset + elements * DTYPES[dtype].bits // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    return path


def write_shards(folder: Path, shards: Mapping[str, Mapping[str, Raw]], index: str | None = None) -> Path:
    """Writes files beside each other and, if `index` names one, the index of all their tensors."""
    folder.mkdir(exist_ok=True)
    weight_map = {}
    for file, tensors in shards.items():
        write_file(folder / file, tensors)
        weight_map.update(dict.fromkeys(tensors, file))
    if index is not None:
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def blocks(count: int, nbytes: int, first_seed: int = 0) -> dict[str, Raw]:
    """`count` tensors of `nbytes` bytes each: "t000", "t001", ..."""
    return {f"t{i:03}": raw("U8", (nbytes,), first_seed + i) for i in range(count)}


def bytes_of(tensor: Any) -> bytes:
    """The bytes of a tensor of torch, on the CPU, or of numpy."""
    if isinstance(tensor, np.ndarray):
        return tensor.tobytes()
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


def assert_same(tensors: Mapping[str, Any] | Iterator[tuple[str, Any]], expected: Mapping[str, Raw]) -> None:
    """All tensors of `expected`, no other, each byte for byte."""
    got = dict(tensors)
    assert sorted(got) == sorted(expected)
    wrong = [name for name, tensor in got.items() if bytes_of(tensor) != expected[name].data]
    assert wrong == []
