"""Parts of tensors: what `get_slice(name)[...]` takes, and the bytes that it needs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from .._tensors import TensorInfo

if TYPE_CHECKING:
    from ._reader import Reader


class SafeSlice:
    """A tensor that is read when it is indexed, and then only what the index asks for.

    Indexing follows the rules of the framework: with torch, slices past the end clamp, steps are positive, and
    ``None``, ``...`` and lists work; with numpy, as in the safetensors package, whole numbers, slices within the shape
    and ``...`` do. The result has memory of its own, exactly as much as it needs. It works after the handle was closed.

    Example:
        >>> with safe_open("model.safetensors", "pt") as f:
        ...     rows = f.get_slice("lm_head.weight")[rank * 4000 : (rank + 1) * 4000]

    """

    def __init__(self, reader: Reader, info: TensorInfo) -> None:
        self._reader = reader
        self._info = info

    def get_shape(self) -> list[int]:
        """The shape of the whole tensor, in elements."""
        return list(self._info.shape)

    def get_dtype(self) -> str:
        """The dtype's name in the header, e.g. ``"BF16"``."""
        return self._info.dtype

    def __getitem__(self, index: Any) -> Any:
        return self._reader.part(self._info, index)

    def __repr__(self) -> str:
        return f"<SafeSlice of {self._info.name!r}: {self._info.dtype}, {list(self._info.shape)}>"


def takes_all(index: Any, dims: int) -> bool:
    """Whether the index is the whole tensor as it is: ``...``, ``()``, or nothing but ``:``."""
    items = index if isinstance(index, tuple) else (index,)
    slices = 0
    ellipses = 0
    for item in items:
        if item is Ellipsis:
            ellipses += 1
        elif isinstance(item, slice) and item.start is item.stop is item.step is None:
            slices += 1
        else:
            return False
    return ellipses <= 1 and slices <= dims


def check_numpy(index: Any, shape: Sequence[int]) -> Any:
    """The index as numpy takes it, by the rules that the safetensors package has for everything but torch.

    Raises:
        SafetensorError: an index that it does not take.

    """
    if isinstance(index, list):
        if index:
            raise SafetensorError("Non empty lists are not implemented")
        index = slice(0, 0)
    items = [_numpy_item(item, place) for place, item in enumerate(index if isinstance(index, tuple) else (index,))]
    if sum(item is Ellipsis for item in items) > 1:
        raise SafetensorError("Only one ellipsis (...) is allowed in slice index")
    if Ellipsis in items:
        at = items.index(Ellipsis)
        items[at : at + 1] = [slice(None)] * max(0, len(shape) - len(items) + 1)
    told = f"Error during slicing [{', '.join(map(_text, items))}] with shape {list(shape)}"
    if len(items) > len(shape):
        raise SafetensorError(f"{told}: more slicing indexes than dimensions in tensor")
    for dim, (item, size) in enumerate(zip(items, shape, strict=False)):
        if isinstance(item, slice):
            outside = _outside(item, size)
        elif item < -size:
            raise SafetensorError(f"Invalid index {item} for dimension {dim} of size {size}")
        else:
            outside = item if item >= size else None
        if outside is not None:
            raise SafetensorError(f"{told}: index {outside} out of bounds for tensor dimension #{dim} of size {size}")
    return tuple(items)


def _numpy_item(item: Any, place: int) -> Any:
    if item is Ellipsis:
        return item
    if isinstance(item, slice):
        if item.step is not None and operator.index(item.step) < 1:
            raise SafetensorError(f"Slice step must be a positive integer, got {item.step}")
        return slice(
            *(None if bound is None else operator.index(bound) for bound in (item.start, item.stop, item.step))
        )
    try:
        return operator.index(item)
    except TypeError:
        raise SafetensorError(
            f"Unsupported slice index at position {place}: expected slice, int, or ellipsis"
        ) from None


def _outside(item: slice, size: int) -> int | None:
    """The first index of a slice that lies beyond the end. Negative ones count from there, as in numpy."""
    if size == 0 and not item.start:
        return None if (item.stop or 0) <= 0 else item.stop - 1
    if item.start is not None and item.start >= size:
        return int(item.start)
    return item.stop - 1 if item.stop is not None and item.stop > size else None


def _text(item: Any) -> str:
    if not isinstance(item, slice):
        return str(item)
    return f"{'' if item.start is None else item.start}:{'' if item.stop is None else item.stop}"
