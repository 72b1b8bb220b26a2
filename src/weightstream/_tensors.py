"""What is known of a tensor before its bytes are read, and parts of tensors."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._checkpoint import Checkpoint

# Bits of one element, by the dtype's name in the header (the dtypes of safetensors 0.8).
DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of a checkpoint, as its header describes it.

    Attributes:
        name: as in the header.
        dtype: the header's name of it, e.g. ``"BF16"``, ``"F8_E4M3"``.
        shape: in elements (also for sub-byte dtypes).
        source: path of the file that holds it.
        range: (begin, end), its bytes in that file.

    Example:
        >>> with ws.open("model.safetensors") as ckpt:
        ...     ckpt["lm_head.weight"].shape
        (32000, 4096)

    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: str
    range: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.range[1] - self.range[0]


@dataclass(frozen=True)
class SourceInfo:
    """A source of a checkpoint: its path, its size in bytes, its tensors, and the bytes before the first tensor."""

    path: str
    size: int
    tensors: int
    header_bytes: int


@dataclass(frozen=True)
class Part:
    """A contiguous part of a tensor: rows [begin, end) below some fixed leading indexes, and the index into it."""

    begin: int  # bytes within the tensor
    end: int
    shape: tuple[int, ...]
    index: tuple[Any, ...]


class TensorSlice:
    """A tensor that is read when it is indexed, and then only as far as its leading dimensions ask for.

    Indexing follows the framework's own rules (torch: slices past the end clamp, steps are positive; None, ``...``
    and lists work). The result owns its memory, exactly as much as it needs.

    Example:
        >>> rows = ckpt.get_slice("model.embed_tokens.weight")[0:16]  # reads 16 rows

    """

    def __init__(self, checkpoint: Checkpoint, info: TensorInfo) -> None:
        self._checkpoint = checkpoint
        self._info = info

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """The dtype's name in the header, e.g. ``"BF16"``."""
        return self._info.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._checkpoint._read_part(self._info, index)

    def __repr__(self) -> str:
        return f"TensorSlice({self._info.name!r}, {self._info.dtype}, {self._info.shape})"


def plan_part(info: TensorInfo, index: Any) -> Part | None:
    """The bytes that `index` needs, or None when it needs the whole tensor.

    Leading integers fix a dimension, the first slice after them narrows one; everything else is left for the
    framework to apply to the part.

    Raises:
        IndexError: a leading integer is out of range, as the framework would say.

    """
    bits = DTYPE_BITS[info.dtype]
    if bits < 8:
        return None
    items = list(index) if isinstance(index, tuple) else [index]
    shape = info.shape
    begin = 0
    stride = info.nbytes
    depth = 0
    # A fixed dimension stays, with one row, so that what is left of the index means the same for the part.
    while depth < len(items) and depth < len(shape) and stride > 0:
        row = stride // shape[depth]
        item = items[depth]
        if isinstance(item, slice) and (item.step is None or _step(item) > 0):
            first, last, step = item.indices(shape[depth])
            last = max(first, last)
            items[depth] = slice(0, last - first, step)
            part_shape = (*[1] * depth, last - first, *shape[depth + 1 :])
            return Part(begin + first * row, begin + last * row, part_shape, tuple(items))
        position = _position(item)
        if position is None:
            break
        if not -shape[depth] <= position < shape[depth]:
            raise IndexError(f"index {position} is out of bounds for dimension {depth} with size {shape[depth]}")
        begin += (position % shape[depth]) * row
        stride = row
        items[depth] = 0
        depth += 1
    if depth == 0:
        return None
    return Part(begin, begin + stride, (*[1] * depth, *shape[depth:]), tuple(items))


def _step(item: slice) -> int:
    return operator.index(item.step)


def _position(item: Any) -> int | None:
    """The item as an integer; None where it is something else to the frameworks: a mask, a list, a new dimension."""
    if isinstance(item, bool) or getattr(item, "ndim", 0) != 0 or str(getattr(item, "dtype", "")).endswith("bool"):
        return None
    try:
        return operator.index(item)
    except TypeError:
        return None
