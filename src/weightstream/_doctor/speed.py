"""How fast bytes come: the first one, and many, at more and more reads at once."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from typing import Any

from .._errors import ThrottledError
from ..cli._format import bytes_text, seconds_text
from .steps import Step

_MIB = 1 << 20
_SAMPLES = 5
_LATENCY_BYTES = 4096
_LEVELS = (1, 2, 4, 8, 16, 32, 64)
_LEVEL_SECONDS = 0.6
_MOST_LEVEL_BYTES = 4 << 30
_SLOW = 50e6  # bytes a second: below it, large reads would take too long for a test
_SMALL = 64 * _MIB


def one_read(opened: Any) -> Step:
    """The time until a small range is there: a round trip to the storage. The first one also opens a connection."""
    core: Any = import_module("weightstream._core")
    source = max(range(len(opened)), key=opened.size)
    size = opened.size(source)
    times = []
    for sample in range(_SAMPLES):
        begin = size * (2 * sample + 1) // (2 * _SAMPLES)
        end = min(begin + _LATENCY_BYTES, size)
        if begin >= end:
            break
        began = time.monotonic()
        stream = core.RawStream.start(opened, [(source, begin, end)], memory_limit=0, concurrency=1, called=began)
        try:
            while stream.next():
                pass
        finally:
            stream.close()
        times.append(time.monotonic() - began)
    if not times:
        return Step("read", "warn", "the file is empty", "was its upload interrupted?")
    first, median = times[0], statistics.median(times)
    summary = f"{_LATENCY_BYTES} bytes took {seconds_text(first)} the first time, {seconds_text(median)} mostly"
    return Step("read", "ok", summary, None, {"first_seconds": first, "median_seconds": median})


def throughput(opened: Any, available: int | None, seconds: float) -> Step:
    """Bytes a second at 1, 2, 4, ... reads at once, and which reader brought them. Takes about `seconds`."""
    end = time.monotonic() + seconds
    total = sum(opened.size(source) for source in range(len(opened)))
    levels: list[dict[str, Any]] = []
    reasons: list[str] = []
    throttled = None
    best = 0.0
    piece = _MIB
    pieces = _pieces(opened, piece)
    for concurrency in _LEVELS:
        # A round at this level must end in the time that is left; the first one is needed in any case.
        if levels and time.monotonic() + max(_LEVEL_SECONDS, 2 * concurrency * piece / max(best, 1.0)) > end:
            break
        try:
            rate, reasons = _level(opened, pieces, total, piece, concurrency, available, end)
        except ThrottledError as error:
            throttled = error
            break
        levels.append({"concurrency": concurrency, "bytes_per_second": rate})
        best = max(best, rate)
        if piece == _MIB and rate > _SLOW:
            piece = 8 * _MIB
            pieces = _pieces(opened, piece)
    details: dict[str, Any] = {"levels": levels, "reasons": reasons}
    if throttled is not None:
        concurrency = 2 * levels[-1]["concurrency"] if levels else 1
        summary = f"throttled at {concurrency} reads at once: {throttled}"
        return Step("throughput", "warn", summary, f"load with --concurrency {max(1, concurrency // 2)}", details)
    fastest = max(levels, key=lambda level: float(level["bytes_per_second"]))
    details["gigabytes_per_second"] = fastest["bytes_per_second"] / 1e9
    shown = ", ".join(f"{level['concurrency']}: {level['bytes_per_second'] / 1e9:.2f}" for level in levels)
    summary = f"{fastest['bytes_per_second'] / 1e9:.2f} GB/s with {fastest['concurrency']} reads at once ({shown})"
    if total < _SMALL:
        summary += f"; {bytes_text(total)} are too few to say much"
    return Step("throughput", "ok", summary, None, details)


def _level(
    opened: Any,
    pieces: Iterator[tuple[int, int, int]],
    total: int,
    piece: int,
    concurrency: int,
    available: int | None,
    end: float,
) -> tuple[float, list[str]]:
    """Bytes a second, and why the readers were chosen."""
    core: Any = import_module("weightstream._core")
    # No range may come twice in one stream.
    count = max(1, min(_MOST_LEVEL_BYTES, total) // piece)
    ranges = list(islice(pieces, count))
    # The core makes reads smaller when the limit would hold too few of them.
    memory_limit = max(32 * piece, 2 * concurrency * piece)
    if available:
        memory_limit = max(64 * _MIB, min(memory_limit, available // 4))
    nbytes = 0
    began = last = time.monotonic()
    stop = min(began + _LEVEL_SECONDS, end)
    stream = core.RawStream.start(opened, ranges, memory_limit=memory_limit, concurrency=concurrency, called=began)
    try:
        while batch := stream.next():
            last = time.monotonic()
            nbytes = stream.bytes_read()  # what is ready counts, whether it was taken or not
            del batch
            # All places had their turn, or there is no time for that.
            if last > end or (last > stop and nbytes >= 2 * concurrency * piece):
                break
        reasons = [reason for _, reason in stream.reasons()]
    finally:
        stream.close()
    return nbytes / max(last - began, 1e-9), list(dict.fromkeys(reasons))


def _pieces(opened: Any, piece: int) -> Iterator[tuple[int, int, int]]:
    """Pieces of all sources, round and round: each level goes on where the one before ended."""
    while True:
        for source in range(len(opened)):
            size = opened.size(source)
            for begin in range(0, size, piece):
                yield source, begin, min(begin + piece, size)
