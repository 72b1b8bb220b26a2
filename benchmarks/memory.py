"""The memory of a process: warming it before a timed part, and reading how much is in use."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

_MADV_HUGEPAGE = 14
_MADV_POPULATE_WRITE = 23
_SPARE_BYTES = 3 << 29


def prewarm(wanted: int) -> int:
    """Touch and free `wanted` bytes of memory, or as many as are free; returns how many.

    A virtual machine may have given free memory back to its host. Touching such memory for the first time costs ten
    times as much as later, and whoever comes first would pay for it.
    """
    free = int(_fields(Path("/proc/meminfo"))["MemFree"])
    count = max(0, min(wanted, free - _SPARE_BYTES)) & -mmap.PAGESIZE
    if not count:
        return 0
    with mmap.mmap(-1, count, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        with contextlib.suppress(OSError):
            memory.madvise(_MADV_HUGEPAGE)
        try:
            memory.madvise(_MADV_POPULATE_WRITE)
        except OSError:
            for offset in range(0, count, mmap.PAGESIZE):
                memory[offset] = 1
    return count


def reset_peak() -> None:
    """Make VmHWM count from now on."""
    Path("/proc/self/clear_refs").write_text("5\n")


def of_process(pid: int | str = "self") -> dict[str, int]:
    """Bytes in memory of a process: "resident", "peak", and "anonymous" (without mapped files)."""
    status = _fields(Path(f"/proc/{pid}/status"))
    return {"resident": status["VmRSS"], "peak": status["VmHWM"], "anonymous": status["RssAnon"]}


def rollup(pid: int) -> dict[str, int]:
    """Bytes in memory of a process by smaps_rollup, which counts pages, not the kernel's per-thread estimates."""
    found = _fields(Path(f"/proc/{pid}/smaps_rollup"))
    return {"resident": found["Rss"], "anonymous": found["Anonymous"]}


def _fields(path: Path) -> dict[str, int]:
    fields = {}
    for line in path.read_text().splitlines():
        name, _, rest = line.partition(":")
        value = rest.split()
        if len(value) == 2 and value[1] == "kB":
            fields[name] = int(value[0]) << 10
    return fields
