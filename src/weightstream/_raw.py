"""Ranges of sources as they are, whatever the sources hold."""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _log

if TYPE_CHECKING:
    from ._core import RawStream, Sources

_open_streams: set[RawStream] = set()


@atexit.register
def _close_open_streams() -> None:
    # Core threads, and threads that wait in next(), must be gone before the interpreter takes its modules apart.
    while _open_streams:
        _open_streams.pop().close()


@contextmanager
def raw_stream(
    opened: Sources,
    ranges: Sequence[tuple[int, int, int]],
    *,
    memory_limit: int = 0,
    concurrency: int = 0,
) -> Iterator[RawStream]:
    """A stream of `ranges`: (source, begin, end) in bytes. It is closed at the end, and what it said is logged."""
    core: Any = import_module("weightstream._core")
    stream: RawStream = core.RawStream.start(
        opened, ranges, memory_limit=memory_limit, concurrency=concurrency, called=time.monotonic()
    )
    process = os.getpid()
    _open_streams.add(stream)
    try:
        yield stream
    finally:
        if stream in _open_streams:  # else the interpreter ends: a thread that gives up the GIL in C++ then aborts it
            _open_streams.discard(stream)
            stream.close()
        if os.getpid() == process:  # else locks may have been held at the fork
            _log.forward(stream.drain_log())
