"""What a stream did when, as a trace for Perfetto (https://ui.perfetto.dev) or chrome://tracing.

The format is Chrome's: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU. Rows:

    next()                        what the consumer waited for, and what it was handed
    copies                        to the device, one at a time
    uring 1, uring 2, http 1, ..  the reads of each reader, as many rows as there were at a time
"""

from __future__ import annotations

import heapq
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

# As the core gives them: (kind, reader or tensor, begin, end, source, begin, end in bytes).
Event: TypeAlias = tuple[str, str, float, float, int, int, int]

_CONSUMER, _COPIES, _FIRST_READ = 1, 2, 10
_WAITS = {"wait storage": "waits for storage", "wait device": "waits for the device"}


def write(path: str, events: Sequence[Event], sources: Sequence[str]) -> None:
    """Writes a trace to `path`, all of it or nothing. `sources` are the names of the sources, by their numbers."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w") as file:
            json.dump({"traceEvents": _chrome(events, sources), "displayTimeUnit": "ms"}, file)
        os.replace(part, path)
    except BaseException:
        if os.path.exists(part):
            os.unlink(part)
        raise


def _chrome(events: Sequence[Event], sources: Sequence[str]) -> list[dict[str, Any]]:
    rows = {_CONSUMER: "next()"}
    chrome = []
    for kind, what, begin, end, source, first, last in events:
        if kind in _WAITS:
            chrome.append(_span(_CONSUMER, _WAITS[kind], begin, end, {}))
        elif kind == "hand over":
            moment = {"name": what, "ph": "i", "s": "t", "ts": begin * 1e6, "pid": 1, "tid": _CONSUMER}
            chrome.append({**moment, "args": {"bytes": last}})
        elif kind == "copy":
            rows[_COPIES] = "copies"
            chrome.append(_span(_COPIES, "copy", begin, end, _bytes(sources[source], first, last, end - begin)))
    reads = (event for event in events if event[0] in ("read", "failed read"))
    for row, (kind, reader, begin, end, source, first, last) in _rows(reads, rows):
        chrome.append(
            _span(row, kind, begin, end, _bytes(sources[source], first, last, end - begin) | {"reader": reader})
        )
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": row, "args": {"name": name}} for row, name in rows.items()
    ]
    order = [
        {"name": "thread_sort_index", "ph": "M", "pid": 1, "tid": row, "args": {"sort_index": row}} for row in rows
    ]
    return [{"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "weightstream"}}, *names, *order, *chrome]


def _rows(reads: Iterable[Event], rows: dict[int, str]) -> Iterable[tuple[int, Event]]:
    """Each read with a row that no other is in meanwhile; names the rows."""
    free: dict[str, list[int]] = {}
    busy: list[tuple[float, str, int]] = []  # until when
    count: dict[str, int] = {}
    for event in sorted(reads, key=lambda event: event[2]):
        reader, begin, end = event[1:4]
        while busy and busy[0][0] <= begin:
            _, ended, row = heapq.heappop(busy)
            heapq.heappush(free.setdefault(ended, []), row)
        if free.get(reader):
            row = heapq.heappop(free[reader])
        else:
            row = _FIRST_READ + sum(count.values())
            count[reader] = count.get(reader, 0) + 1
            rows[row] = f"{reader} {count[reader]}"
        heapq.heappush(busy, (end, reader, row))
        yield row, event


def _span(row: int, name: str, begin: float, end: float, args: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "ph": "X", "ts": begin * 1e6, "dur": (end - begin) * 1e6, "pid": 1, "tid": row, "args": args}


def _bytes(source: str, begin: int, end: int, seconds: float) -> dict[str, Any]:
    rate = (end - begin) / seconds / 1e6 if seconds > 0 else 0.0
    return {"source": source, "begin": begin, "end": end, "MB/s": round(rate, 1)}
