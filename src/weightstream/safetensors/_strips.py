"""A part of a tensor that lies in several strips, each of them contiguous, with wide gaps between them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._tensors import DTYPE_BITS, TensorInfo


@dataclass(frozen=True)
class Strips:
    """What is to be read for an index.

    Attributes:
        ranges: (begin, end) of each strip, in bytes of the tensor, ascending.
        shape: of each strip.
        stacked: the shape that all strips have together, one after the other.
        index: what selects the result from that.

    """

    ranges: list[tuple[int, int]]
    shape: tuple[int, ...]
    stacked: tuple[int, ...]
    index: tuple[Any, ...]


def plan_strips(info: TensorInfo, index: Any, least_gap: int) -> Strips | None:
    """The strips that `index` needs, where there are several with more than `least_gap` bytes between them.

    None where it needs one contiguous part, or where reading through the gaps costs less than leaving them out; and for
    an index of which only the framework knows what it means.
    """
    items = basic_index(index, info.shape)
    if items is None or DTYPE_BITS[info.dtype] < 8 or 0 in info.shape:
        return None
    strides = _strides(info)
    ranges = [_range(item, size) for item, size in zip(items, info.shape, strict=True)]
    if any(len(positions) == 0 for positions in ranges):
        return None
    # The innermost dimension that leaves out enough: strips are what it selects, below each position of the outer ones.
    for dim in range(len(items) - 1, 0, -1):
        first, last = ranges[dim][0], ranges[dim][-1] + 1
        if (info.shape[dim] - (last - first)) * strides[dim] > least_gap:
            break
    else:
        return None
    outer = ranges[:dim]
    if all(len(positions) == 1 for positions in outer):
        return None  # one strip
    begins = (
        sum(position * stride for position, stride in zip(places, strides, strict=False))
        for places in itertools.product(*outer)
    )
    low, high = first * strides[dim], last * strides[dim]
    shape = (last - first, *info.shape[dim + 1 :])
    inner = items[dim] if isinstance(items[dim], slice) else 0
    if isinstance(inner, slice):
        inner = slice(0, last - first, ranges[dim].step)
    return Strips(
        ranges=[(begin + low, begin + high) for begin in begins],
        shape=shape,
        stacked=(*map(len, outer), *shape),
        index=(*(slice(None) if isinstance(item, slice) else 0 for item in items[:dim]), inner, *items[dim + 1 :]),
    )


def basic_index(index: Any, shape: Sequence[int]) -> tuple[int | slice, ...] | None:
    """One whole number or slice for each dimension; None for any other index, or one that is out of range."""
    items = list(index) if isinstance(index, tuple) else [index]
    ellipses = [place for place, item in enumerate(items) if item is Ellipsis]
    if len(ellipses) > 1 or len(items) - len(ellipses) > len(shape):
        return None
    at = ellipses[0] if ellipses else len(items)
    items[at : at + 1] = [slice(None)] * (len(shape) - len(items) + len(ellipses))
    for item, size in zip(items, shape, strict=True):
        if isinstance(item, slice):
            if any(bound is not None and type(bound) is not int for bound in (item.start, item.stop, item.step)):
                return None
            if item.step is not None and item.step < 1:
                return None
        elif type(item) is not int or not -size <= item < size:
            return None
    return tuple(items)


def elements_of(items: Sequence[int | slice], shape: Sequence[int]) -> int:
    """How many elements an index selects that has one item for each dimension."""
    count = 1
    for item, size in zip(items, shape, strict=True):
        count *= len(_range(item, size))
    return count


def _range(item: int | slice, size: int) -> range:
    if isinstance(item, slice):
        return range(*item.indices(size))
    return range(item % size, item % size + 1)


def _strides(info: TensorInfo) -> list[int]:
    strides = []
    stride = info.nbytes
    for size in info.shape:
        stride //= size
        strides.append(stride)
    return strides
