"""The dtypes of a header in torch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from .._errors import ConfigError

# torch.utils.dlpack.from_dlpack looks at its argument first; a capsule can go straight to what it ends in.
from_capsule = getattr(torch._C, "_from_dlpack", from_dlpack)

# F4 holds two elements in a byte, so its last dimension is halved; torch has no 6-bit dtype, so F6 stays what it is in
# the file: bytes, flat.
_TORCH: dict[str, str] = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": "uint8",
    "F6_E3M2": "uint8",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
# Those that DLPack does not carry, or not to every torch: they cross as bytes and are viewed as what they are.
_CROSS_AS_BYTES = frozenset(name for name in _TORCH if name.startswith(("F4", "F6_", "F8_")))


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a header's dtype name.

    Raises:
        ConfigError: this torch has none.

    """
    found: torch.dtype | None = getattr(torch, _TORCH[dtype], None)
    if found is None:
        raise ConfigError(
            f"this torch ({torch.__version__}) has no dtype {_TORCH[dtype]}, which {dtype} needs; install a newer one"
        )
    return found


def tensor_like(dtype: str, shape: tuple[int, ...]) -> tuple[torch.dtype, tuple[int, ...]]:
    """The dtype and shape of the tensor of torch that holds a tensor of a header's dtype name and shape."""
    if dtype == "F4" and shape and shape[-1] % 2 == 0:
        shape = (*shape[:-1], shape[-1] // 2)
    elif dtype == "F4" or dtype.startswith("F6_"):
        bits = 4 if dtype == "F4" else 6
        shape = (math.prod(shape) * bits // 8,)
    return torch_dtype(dtype), shape


def view(tensor: torch.Tensor, dtype: str | None) -> torch.Tensor:
    """A tensor that crossed by DLPack as what it is; None says that it crossed as that."""
    return tensor.view(torch_dtype(dtype)) if dtype in _CROSS_AS_BYTES else tensor


def of_buffer(
    buffer: Any, dtype: str, shape: tuple[int, ...], offset: int, nbytes: int, copy: bool = False
) -> torch.Tensor:
    """A tensor of a header's dtype name and shape that lies in `buffer`, from `offset` on, and keeps it alive.

    It has a storage of its own, of exactly its size. One that is not aligned for its dtype there is a copy, as is any
    that is asked for as one.
    """
    made, packed = tensor_like(dtype, shape)
    if nbytes == 0:
        return torch.empty(packed, dtype=made)
    if copy or offset % made.itemsize:
        return torch.frombuffer(buffer, dtype=torch.uint8, count=nbytes, offset=offset).clone().view(made).view(packed)
    return torch.frombuffer(buffer, dtype=made, count=nbytes // made.itemsize, offset=offset).view(packed)
