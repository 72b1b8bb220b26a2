"""Tensors that lie in a private mapping of a local file, as the safetensors package makes them.

Nothing is read and nothing copied before a page is touched, and all processes of a machine share the page cache. What
a mapping cannot promise is in docs/semantics.md. So it is used where it wins: for files that are in memory already.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any

from .._core import Checkpoint as CoreCheckpoint
from .._core import Reading
from .._tensors import TensorInfo

# From this part on, mapping the file beats reading it from the device: the core's own threshold.
_MOSTLY_CACHED = 0.5

# (buffer, dtype, shape, offset in bytes, bytes) -> a tensor of the buffer's memory, with a storage of exactly its size
Make = Callable[[Any, str, "tuple[int, ...]", int, int], Any]


class LocalFile:
    """A source that is a local file. Every mapping is of the file whose header was read. Thread-safe.

    Raises (from every method):
        SourceChangedError: it is not that file any more.
        WeightstreamError: it cannot be opened.

    """

    def __init__(self, checkpoint: CoreCheckpoint, source: int) -> None:
        self._checkpoint = checkpoint
        self._source = source
        self._cached: float | None = None
        self._reading: Reading | None = None
        self._is_shared: bool | None = None
        self._handed_out: dict[str, object] = {}  # tensors that lie, or have parts, in the shared mapping
        # Two threads may make one each, and both are right.
        self._shared: mmap.mmap | None = None
        self._pristine: mmap.mmap | None = None

    def mostly_cached(self) -> bool:
        """Whether mapping it beats reading it from the device. Found out once."""
        if self._cached is None:
            self._cached = self._checkpoint.cached(self._source)
        return self._cached >= _MOSTLY_CACHED

    def is_shared(self) -> bool:
        """Whether others read it at the same time: through the page cache it comes once. Found out once.

        They see that this one reads it, until `release`.
        """
        if self._is_shared is None:
            self._reading = self._checkpoint.read(self._source)
            self._is_shared = self._reading.shared
        return self._is_shared

    def release(self) -> None:
        """It is not being read any more."""
        self._reading = None

    def tensor(self, make: Make, info: TensorInfo) -> Any:
        """The whole tensor, the caller's own."""
        return self.part(make, info, info.shape, 0, info.nbytes)

    def part(self, make: Make, info: TensorInfo, shape: tuple[int, ...], begin: int, end: int) -> Any:
        """Bytes [begin, end) of the tensor, which have `shape`, the caller's own."""
        begin, end = info.range[0] + begin, info.range[0] + end
        mine = object()
        if self._handed_out.setdefault(info.name, mine) is mine:  # for one of many threads only
            if self._shared is None:
                self._shared = self._map()
            return make(self._shared, info.dtype, shape, begin, end - begin)
        # Who has it may have written to it: once more, it gets pages of its own.
        aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
        mapped = self._map(aligned, max(1, end - aligned))
        return make(mapped, info.dtype, shape, begin - aligned, end - begin)

    def source(self, make: Make, info: TensorInfo) -> Any:
        """The whole tensor, to copy from, and not to hand out."""
        if self._pristine is None:
            self._pristine = self._map()
        return make(self._pristine, info.dtype, info.shape, info.range[0], info.nbytes)

    def _map(self, offset: int = 0, length: int = 0) -> mmap.mmap:
        descriptor = self._checkpoint.duplicate(self._source)
        assert descriptor is not None
        try:
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, prot=writable, offset=offset)
        finally:
            os.close(descriptor)
