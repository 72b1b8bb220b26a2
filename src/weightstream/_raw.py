"""Ranges of sources as they are, whatever the sources hold."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _log

if TYPE_CHECKING:
    from ._core import RawStream, Sources


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
    try:
        yield stream
    finally:
        stream.close()
        _log.forward(stream.drain_log())
