"""How fast bytes come: the first one, and many, at more and more reads at once."""

from __future__ import annotations

import statistics
import time
from typing import Any

from .._errors import ThrottledError
from .._format import bytes_text, count_text, seconds_text
from .._raw import raw_stream
from .steps import Step

_MIB = 1 << 20
_SAMPLES = 5
_LATENCY_BYTES = 4096
_LEVELS = (1, 2, 4, 8, 16, 32, 64)
_LEVEL_SECONDS = 0.6
_MOST_LEVEL_BYTES = 4 << 30
# Sizes of reads, and the bytes a second with one of them from which the next is taken: large reads would take too long
# for a test of a slow storage.
_SIZES = ((_MIB // 4, 4e6), (_MIB, 50e6), (8 * _MIB, float("inf")))
_TRIAL_SECONDS = 0.2
_SMALL = 64 * _MIB


def one_read(opened: Any) -> Step:
    """The time until a small range is there: a round trip to the storage. The first one also opens a connection."""
    source = max(range(len(opened)), key=opened.size)
    size = opened.size(source)
    times = []
    for sample in range(_SAMPLES):
        begin = size * (2 * sample + 1) // (2 * _SAMPLES)
        end = min(begin + _LATENCY_BYTES, size)
        if begin >= end:
            break
        began = time.monotonic()
        with raw_stream(opened, [(source, begin, end)], concurrency=1) as stream:
            while stream.next():
                pass
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
    places = _Places(opened)
    piece = _SIZES[0][0]
    took = 0.0
    try:
        for size, enough in _SIZES[:-1]:
            piece = size
            rate, _ = _level(opened, places, total, piece, 1, available, _TRIAL_SECONDS)
            if rate < enough:
                break
        else:
            piece = _SIZES[-1][0]
        for concurrency in _LEVELS:
            # At worst the bottleneck is the link, and twice as many reads take twice as long.
            if levels and time.monotonic() + max(_LEVEL_SECONDS, 2 * took) > end:
                break
            began = time.monotonic()
            rate, reasons = _level(opened, places, total, piece, concurrency, available, _LEVEL_SECONDS)
            took = time.monotonic() - began
            levels.append({"concurrency": concurrency, "bytes_per_second": rate})
    except ThrottledError as error:
        throttled = error
    details: dict[str, Any] = {"levels": levels, "reasons": reasons}
    if throttled is not None:
        concurrency = 2 * levels[-1]["concurrency"] if levels else 1
        summary = f"throttled at {concurrency} reads at once: {throttled}"
        return Step("throughput", "warn", summary, f"load with --concurrency {max(1, concurrency // 2)}", details)
    fastest = max(levels, key=lambda level: float(level["bytes_per_second"]))
    details["gigabytes_per_second"] = fastest["bytes_per_second"] / 1e9
    shown = ", ".join(f"{level['concurrency']}: {_gigabytes(level)}" for level in levels)
    summary = f"{_gigabytes(fastest)} GB/s with {count_text(fastest['concurrency'], 'read')} at once ({shown})"
    if len(levels) < len(_LEVELS) and fastest is levels[-1]:
        summary += "; more reads at once may bring more, and would have taken too long"
    if total < _SMALL:
        summary += f"; {bytes_text(total)} are too few to say much"
    return Step("throughput", "ok", summary, None, details)


def _level(
    opened: Any,
    places: _Places,
    total: int,
    piece: int,
    concurrency: int,
    available: int | None,
    seconds: float,
) -> tuple[float, list[str]]:
    """Bytes a second, and why the readers were chosen."""
    ranges = places.next(min(_MOST_LEVEL_BYTES, total), piece)
    # By the limit, the core chooses the size of reads: a 32nd part of it.
    memory_limit = 32 * piece
    if concurrency > 16:
        memory_limit = max(memory_limit, min(2 * concurrency * piece, (available or 0) // 4))
    nbytes = 0
    began = last = time.monotonic()
    with raw_stream(opened, ranges, memory_limit=memory_limit, concurrency=concurrency) as stream:
        while batch := stream.next():
            last = time.monotonic()
            nbytes = stream.bytes_read()  # what is ready counts, whether it was taken or not
            del batch
            if last > began + seconds and nbytes >= concurrency * piece:  # all had their turn
                break
        reasons = [reason for _, reason in stream.reasons()]
    return nbytes / max(last - began, 1e-9), list(dict.fromkeys(reasons))


def _gigabytes(level: dict[str, Any]) -> str:
    rate = float(level["bytes_per_second"]) / 1e9
    return f"{rate:.2f}" if rate >= 0.1 else f"{rate:.4f}"


class _Places:
    """Where to read: each level goes on where the one before ended, round and round through all sources."""

    def __init__(self, opened: Any) -> None:
        self._sizes = [opened.size(source) for source in range(len(opened))]
        self._source = 0
        self._offset = 0

    def next(self, nbytes: int, piece: int) -> list[tuple[int, int, int]]:
        """Ranges of `piece` bytes at most, `nbytes` in all; if that is no more than there are, no byte comes twice."""
        ranges = []
        while nbytes > 0:
            if self._offset >= self._sizes[self._source]:
                self._source = (self._source + 1) % len(self._sizes)
                self._offset = 0
                continue
            end = min(self._offset + min(piece, nbytes), self._sizes[self._source])
            ranges.append((self._source, self._offset, end))
            nbytes -= end - self._offset
            self._offset = end
        return ranges
