"""Tensors that lie in a private mapping of a local file, as the safetensors package makes them.

Nothing is read and nothing copied before a page is touched, and all processes of a machine share the page cache. What
a mapping cannot promise is in docs/semantics.md. So it is used where it wins: for files that are in memory already.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from collections.abc import Callable
from typing import Any

from .._core import Checkpoint as CoreCheckpoint
from .._core import Reading
from .._errors import StorageError
from .._tensors import TensorInfo

# From this part on, mapping the file beats reading it from the device: the core's own threshold.
_MOSTLY_CACHED = 0.5
# From this size on, pages that come when they are touched beat a copy.
_LEAST_MAPPED = 1 << 20

# (buffer, dtype, shape, offset in bytes, bytes, whether to copy) -> a tensor of the buffer's memory, or of its own. Its
# storage has exactly its size.
Make = Callable[[Any, str, "tuple[int, ...]", int, int, bool], Any]

# Python's own mmap keeps a descriptor for each mapping, and a process has few of them. (trackfd=False: from 3.13 on.)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_FAILED = ctypes.c_void_p(-1).value


class LocalFile:
    """A source that is a local file. Every mapping is of the file whose header was read. Thread-safe.

    Raises (from every method):
        SourceChangedError: it is not that file any more.
        StorageError: the process may not have another mapping, or not the memory for it.
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
        self._shared: Any = None
        self._pristine: Any = None

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
                self._shared = self._map(info.source)
            return make(self._shared, info.dtype, shape, begin, end - begin, False)
        # Who has it may have written to it: once more, it gets memory of its own.
        if end - begin < _LEAST_MAPPED:
            return make(self._unwritten(info.source), info.dtype, shape, begin, end - begin, True)
        aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
        return make(self._map(info.source, aligned, end), info.dtype, shape, begin - aligned, end - begin, False)

    def source(self, make: Make, info: TensorInfo) -> Any:
        """The whole tensor, to copy from, and not to hand out."""
        return make(self._unwritten(info.source), info.dtype, info.shape, info.range[0], info.nbytes, False)

    def _unwritten(self, path: str) -> Any:
        if self._pristine is None:
            self._pristine = self._map(path)
        return self._pristine

    def _map(self, path: str, begin: int = 0, end: int | None = None) -> Any:
        """A buffer of bytes [begin, end) of the file, which is unmapped when nothing lies in it any more."""
        descriptor = self._checkpoint.duplicate(self._source)
        assert descriptor is not None
        try:
            length = (os.fstat(descriptor).st_size if end is None else end) - begin
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            address = _libc.mmap(None, length, writable, mmap.MAP_PRIVATE, descriptor, begin)
            errno = ctypes.get_errno()
        finally:
            os.close(descriptor)
        if address == _FAILED:
            raise StorageError(f"cannot map {length} bytes of it: {os.strerror(errno)}", source=path, errno=errno)
        mapped = (ctypes.c_char * length).from_address(address)
        weakref.finalize(mapped, _libc.munmap, address, length).atexit = False  # tensors may live until the very end
        return mapped
