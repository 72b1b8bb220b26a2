"""Tensors that lie in a private mapping of a local file, as the safetensors package makes them.

Nothing is read and nothing copied before a page is touched, and all processes of a machine share the page cache. What
a mapping cannot promise is in docs/semantics.md. So it is used where it wins: for files that are in memory already.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from typing import Any

from .._errors import SourceChangedError
from .._tensors import TensorInfo

# From this part on, mapping the file beats reading it from the device: the core's own threshold.
_MOSTLY_CACHED = 0.5
_SAMPLES = 32
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})
_RANDOM = getattr(os, "POSIX_FADV_RANDOM", 1)

# (buffer, dtype, shape, offset in bytes, bytes) -> a tensor of the buffer's memory, with a storage of exactly its size
Make = Callable[[Any, str, "tuple[int, ...]", int, int], Any]


class LocalFile:
    """A local file as it was when its header was read."""

    def __init__(self, path: str, identity: tuple[int, ...]) -> None:
        self.path = path
        self._identity = identity
        self._cached: float | None = None
        self._handed_out: dict[str, object] = {}  # tensors that lie, or have parts, in the shared mapping
        self._shared = _Mapping()
        self._pristine = _Mapping()

    @classmethod
    def found(cls, path: str, opened_at: int) -> LocalFile | None:
        """The file at `path`, if it has been the same since `opened_at` (nanoseconds of `time.time_ns`).

        None where that cannot be said: it was written to, renamed or replaced since then, or is no regular file.
        """
        try:
            status = os.stat(path)
        except OSError:
            return None
        if max(status.st_mtime_ns, status.st_ctime_ns) > opened_at or status.st_size == 0:
            return None
        return cls(path, _identity(status))

    def cached(self) -> float:
        """The part of the file, 0 to 1, that is in memory, from a sample, taken once. 0 where the kernel does not say.

        Raises:
            SourceChangedError: it is not the file whose header was read.
            OSError: it cannot be opened.

        """
        if self._cached is None:
            descriptor = self._open()
            try:
                self._cached = _cached_fraction(descriptor)
            finally:
                os.close(descriptor)
        return self._cached

    def mostly_cached(self) -> bool:
        """Whether mapping it beats reading it from the device."""
        return self.cached() >= _MOSTLY_CACHED

    def tensor(self, make: Make, info: TensorInfo) -> Any:
        """The whole tensor, the caller's own."""
        return self.part(make, info, info.shape, 0, info.nbytes)

    def part(self, make: Make, info: TensorInfo, shape: tuple[int, ...], begin: int, end: int) -> Any:
        """Bytes [begin, end) of the tensor, which have `shape`, the caller's own."""
        begin, end = info.range[0] + begin, info.range[0] + end
        mine = object()
        if self._handed_out.setdefault(info.name, mine) is mine:  # for one of many threads only
            return make(self._shared.get(self), info.dtype, shape, begin, end - begin)
        # Who has it may have written to it: once more, it gets pages of its own.
        aligned = begin - begin % mmap.ALLOCATIONGRANULARITY
        mapped = self._map(aligned, max(1, end - aligned))
        return make(mapped, info.dtype, shape, begin - aligned, end - begin)

    def source(self, make: Make, info: TensorInfo) -> Any:
        """The whole tensor, to copy from, and not to hand out."""
        return make(self._pristine.get(self), info.dtype, info.shape, info.range[0], info.nbytes)

    def _map(self, offset: int = 0, length: int = 0) -> mmap.mmap:
        descriptor = self._open()
        try:
            writable = mmap.PROT_READ | mmap.PROT_WRITE
            return mmap.mmap(descriptor, length, flags=mmap.MAP_PRIVATE, prot=writable, offset=offset)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        if _identity(os.fstat(descriptor)) != self._identity:
            os.close(descriptor)
            raise SourceChangedError("the file was replaced or written to since its header was read", source=self.path)
        return descriptor


class _Mapping:
    """A mapping of a whole file, made when it is first needed. Two threads may make one each, and both are right."""

    def __init__(self) -> None:
        self._mapped: mmap.mmap | None = None

    def get(self, file: LocalFile) -> mmap.mmap:
        mapped = self._mapped
        if mapped is None:
            mapped = self._mapped = file._map()
        return mapped


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _cached_fraction(descriptor: int) -> float:
    """A read of one byte that must not wait succeeds only from the page cache."""
    status = os.fstat(descriptor)
    os.posix_fadvise(descriptor, 0, 0, _RANDOM)  # no readahead of what is sampled
    byte = bytearray(1)
    cached = 0
    for sample in range(_SAMPLES):
        # The middle of each of the equal parts: the beginning, which the header read has warmed, does not decide.
        offset = status.st_size * (2 * sample + 1) // (2 * _SAMPLES)
        try:
            cached += os.preadv(descriptor, [byte], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                return 1.0 if _in_memory(status.st_dev) else 0.0
            raise
    return cached / _SAMPLES


def _in_memory(device: int) -> bool:
    """Whether a device is a filesystem that lives in memory, as /proc/self/mountinfo says."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            for line in mounts:
                fields, _, source = line.partition(" - ")
                if fields.split()[2] == number:
                    return source.split()[0] in _MEMORY_FILESYSTEMS
    except OSError:
        pass
    return False
