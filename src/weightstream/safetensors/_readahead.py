"""Reads ahead of a caller who asks for one tensor after the other.

As soon as two requests follow each other in an order that callers walk in, the tensors that come next are read: in
windows of consecutive tensors, each one stream, at most two of which are reading at a time, so that the second one is
already running when the first one has been handed out. What has been read ahead and not asked for yet stays under the
memory limit, together with that of all other handles of the process. A tensor that no window has is left to the caller,
and not read again by a later one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .. import _log
from .._errors import WeightstreamError
from .._stream import TensorStream
from ._allowance import allowance
from ._walk import Walk
from ._window import MISSING, Window

_MOST_READING = 2
_MOST_WINDOW_BYTES = 1 << 30
# Of the limit: two windows that are reading, and as much again for what arrived in another order than it is asked for.
_WINDOWS_IN_LIMIT = 4


class ReadAhead:
    """What is read ahead for one handle. Thread-safe. Starts no thread and reads nothing before it is asked.

    Args:
        names: all names, in file order.
        sizes: their bytes.
        start: starts a stream of some names.
        limit: bytes that may be read ahead, by all handles of the process together.

    """

    def __init__(
        self,
        names: Sequence[str],
        sizes: Mapping[str, int],
        start: Callable[[list[str]], TensorStream],
        limit: int,
    ) -> None:
        self._process = os.getpid()
        self._sizes = sizes
        self._start = start
        self._limit = limit
        self._window_bytes = max(1, min(limit // _WINDOWS_IN_LIMIT, _MOST_WINDOW_BYTES))
        self._total_bytes = sum(sizes.values())
        self._lock = threading.RLock()  # a finalizer may run in the thread that holds it
        self._walk = Walk(names)
        self._asked: set[str] = set()  # in this walk
        self._windows: dict[Window, set[str]] = {}  # with what nobody asked for yet
        self._window_of: dict[str, Window] = {}
        self._last_asked = 0.0
        self._failed = False
        self._ended = False  # a window, since windows were started
        self._tensors = 0
        self._bytes_read = 0

    def take(self, name: str, *, sliced: bool) -> Any:
        """The tensor, or MISSING: then the caller reads it. `sliced`: it is asked for through a slice."""
        with self._lock:
            self._last_asked = time.monotonic()
            if name in self._asked:  # the caller walks once more
                self._asked.clear()
                self._failed = False
                self._walk.restart()
            self._walk.step(name, sliced=sliced)
            # Nothing is to be done while what is asked for is there, which is nearly always.
            if (self._ended or name not in self._window_of) and self._walk.walking and not self._failed:
                self._ended = not self._top_up()
            self._asked.add(name)
            window = self._window_of.pop(name, None)
        if window is None:
            return MISSING
        tensor = MISSING
        try:
            tensor = window.take(name)
        finally:
            with self._lock:
                self._handed_out(window, name, came=tensor is not MISSING)
        return tensor

    def stop(self) -> None:
        """Stops reading and gives back what nobody asked for. A later walk starts it again."""
        with self._lock:
            self._walk.restart()
            for window in list(self._windows):
                self._forget(window)

    def stop_if_idle(self, now: float) -> bool:
        """Stops if nobody asked for long; returns whether nothing is read ahead now."""
        with self._lock:
            if self._windows and now - self._last_asked < allowance.idle_seconds:
                return False
            self.stop()
            return True

    def counts(self) -> tuple[int, int]:
        """(tensors handed out, bytes that storage delivered), so far."""
        with self._lock:
            return self._tensors, self._bytes_read + sum(window.bytes_read() for window in self._windows)

    def __del__(self) -> None:
        if self._process == os.getpid():  # in a forked child the lock may be taken for ever
            self.stop()

    # Under the lock.

    def _top_up(self) -> bool:
        """Starts windows for what comes next, until enough are reading; False if that has to wait for room."""
        needed = min(self._window_bytes, self._total_bytes)
        while self._reading() < _MOST_READING:
            if not self._make_room(needed):
                return False
            names = self._next_names()
            nbytes = sum(self._sizes[name] for name in names)
            if not names:
                break
            if not self._make_room(nbytes) or not allowance.take(nbytes, self._limit):  # other handles were quicker
                self._walk.plan_from(names[0])
                return False
            try:
                window = Window(self._start(names))
            except WeightstreamError as error:  # who reads a tensor gets the error that concerns it
                allowance.give_back(nbytes)
                self._failed = True
                _log.logger.debug("reading ahead failed: %s", error)
                break
            self._windows[window] = set(names)
            self._window_of.update(dict.fromkeys(names, window))
            allowance.watch(self)
            _log.logger.debug("reading ahead: %d tensors, %d bytes, from %r on", len(names), nbytes, names[0])
        return True

    def _next_names(self) -> list[str]:
        names: list[str] = []
        nbytes = 0
        for name in self._walk.ahead():
            size = self._sizes[name]
            if name in self._asked or name in self._window_of or size > self._limit // 2:
                continue
            if names and nbytes + size > self._window_bytes:
                break
            names.append(name)
            nbytes += size
        return names

    def _reading(self) -> int:
        """How many windows are reading, or have read what is asked for next."""
        ahead = (names for window, names in self._windows.items() if not window.drained)
        return sum(not self._walk.is_behind(names) for names in ahead)

    def _make_room(self, nbytes: int) -> bool:
        """Whether there is room for `nbytes`; for that, what the caller left out is dropped, the oldest first."""
        behind = (window for window, names in list(self._windows.items()) if self._walk.is_behind(names))
        while allowance.used + nbytes > self._limit:
            window = next(behind, None)
            if window is None:
                return False
            self._forget(window)
        return True

    def _handed_out(self, window: Window, name: str, *, came: bool) -> None:
        left = self._windows.get(window)
        if left is None:  # stopped meanwhile
            return
        left.discard(name)
        allowance.give_back(self._sizes[name])
        self._tensors += came
        self._ended = self._ended or window.drained
        if not came:
            self._failed = True
        if not came or not left:
            self._forget(window)

    def _forget(self, window: Window) -> None:
        left = self._windows.pop(window)
        for name in left:
            self._window_of.pop(name, None)
        self._bytes_read += window.stop()
        allowance.give_back(sum(self._sizes[name] for name in left))
