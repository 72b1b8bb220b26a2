"""The page cache of the files under test: empty it, fill it, look into it, and set how far it reads ahead."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.machine import disk, filesystem

DROP_CACHES = Path("/proc/sys/vm/drop_caches")
COLD_LIMIT = 0.001
WARM_LIMIT = 0.999
_CACHESTAT = 451

_libc = ctypes.CDLL(None, use_errno=True)


class CacheError(RuntimeError):
    """The page cache could not be brought into the state that the scenario needs."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


def _cached_pages(path: Path) -> int:
    """Pages of a file in the page cache, by cachestat (Linux 6.5) or else by mincore."""
    with path.open("rb") as file:
        stat = _CacheStat()
        everything = _Range(0, 0)
        if _libc.syscall(_CACHESTAT, file.fileno(), ctypes.byref(everything), ctypes.byref(stat), 0) == 0:
            return int(stat.cached)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
            pages = -(-len(view) // mmap.PAGESIZE)
            states = (ctypes.c_ubyte * pages)()
            anchor = ctypes.c_char.from_buffer(view)
            try:
                failed = _libc.mincore(ctypes.c_void_p(ctypes.addressof(anchor)), ctypes.c_size_t(len(view)), states)
            finally:
                del anchor
            if failed:
                raise CacheError(f"mincore: {os.strerror(ctypes.get_errno())}")
            return sum(state & 1 for state in states)


def residency(paths: Sequence[Path]) -> float:
    """The share (0 to 1) of the files' pages that is in the page cache."""
    pages = sum(-(-path.stat().st_size // mmap.PAGESIZE) for path in paths)
    return sum(_cached_pages(path) for path in paths) / pages


def make_cold(paths: Sequence[Path]) -> str:
    """Take the files out of the page cache and say how: "drop_caches" or, where that is not allowed, "fadvise".

    Raises CacheError when pages stay.
    """
    os.sync()
    try:
        DROP_CACHES.write_text("3\n")
        method = "drop_caches"
    except OSError:
        method = "fadvise"
        for path in paths:
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    share = residency(paths)
    if share > COLD_LIMIT:
        raise CacheError(f"{method} left {share:.1%} of the files in the page cache")
    return method


def make_warm(paths: Sequence[Path]) -> str:
    """Read the files until all of their pages are in the page cache; says "read" or, when they were there, "kept".

    Raises CacheError when memory is too small to keep them all.
    """
    if residency(paths) >= WARM_LIMIT:
        return "kept"
    buffer = bytearray(8 << 20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    share = residency(paths)
    if share < WARM_LIMIT:
        raise CacheError(f"only {share:.1%} of the files stayed in the page cache")
    return "read"


def in_memory(paths: Sequence[Path]) -> str:
    """Says "tmpfs"; raises CacheError when the files are on anything else."""
    for path in paths:
        kind = filesystem(path)[0]
        if kind not in ("tmpfs", "ramfs"):
            raise CacheError(f"{path.name} is on {kind}; name a folder on a tmpfs with --data")
    return "tmpfs"


PREPARE = {"cold": make_cold, "warm": make_warm, "tmpfs": in_memory}
"""By state, what brings files into it and says how."""


def check(paths: Sequence[Path], state: str) -> float:
    """The residency of the files; raises CacheError when it does not fit `state` ("cold", "warm" or "tmpfs")."""
    if state == "tmpfs":
        return 1.0
    share = residency(paths)
    if (state == "cold" and share > COLD_LIMIT) or (state == "warm" and share < WARM_LIMIT):
        raise CacheError(f"{share:.1%} of the files are in the page cache right before a {state} run")
    return share


@contextlib.contextmanager
def read_ahead(folder: Path, kib: int | None) -> Iterator[None]:
    """Meanwhile the disk that holds `folder` reads so many KiB ahead into the page cache; None: as it is set.

    Raises CacheError where that is not allowed, or the folder is on no disk of this machine.
    """
    if kib is None:
        yield
        return
    setting = disk(folder) / "queue/read_ahead_kb"
    try:
        before = setting.read_text()
        setting.write_text(f"{kib}\n")
    except OSError as error:
        raise CacheError(f"cannot set how far the disk reads ahead: {error}") from error
    try:
        yield
    finally:
        setting.write_text(before)
