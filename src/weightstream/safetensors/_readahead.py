"""Reads ahead of a caller who asks for one tensor after the other.

As soon as two requests follow each other in an order that callers walk in, or the first one is for a large tensor that
the file begins with, the tensors that come next are read. Where they lie in the file in that order, as they mostly do,
one stream brings all of them, as far ahead of the caller as a slide reaches. Otherwise they come in windows of
consecutive tensors, each one stream, two of which are reading at a time. What has been read ahead and not asked for yet
stays under the memory limit, together with that of all other handles of the process. A tensor that neither has is left
to the caller.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .. import _log
from .._errors import WeightstreamError
from .._stream import TensorStream
from ._allowance import allowance
from ._slide import Slide
from ._walk import Walk
from ._window import MISSING, Window

_MOST_READING = 2
_MOST_WINDOW_BYTES = 1 << 30
# Of a window, for there to be slides: a stream that may hold less has to stop and drain.
_LEAST_SLIDING_BYTES = 8 << 20
# What a window is divided by for the bytes of a large tensor.
_WINDOW_OF_LARGE = 4
# What a tensor keeps in memory beside its own bytes, at most: memory is given back in blocks.
_BLOCK_BYTES = 2 << 20
# Of the limit: two windows that are reading, and as much again for what arrived in another order than it is asked for.
_WINDOWS_IN_LIMIT = 4

# Starts a stream of some names, in file order; of a slide, with the bytes that it may have read and nobody took.
Start = Callable[[list[str], "int | None"], TensorStream]


@dataclass
class _Ahead:
    """What nobody asked for yet of a window or a slide.

    Attributes:
        names: its tensors.
        nbytes: their bytes.
        most: bytes of them that are in memory at most.
        weight: for how many windows it counted when a tensor was last handed out.

    """

    names: set[str]
    nbytes: int
    most: int
    weight: int = _MOST_READING

    @property
    def held(self) -> int:
        """Bytes that it keeps in memory at most: what was taken shares blocks with what was not."""
        return min(self.nbytes + len(self.names) * _BLOCK_BYTES, self.most)


class ReadAhead:
    """What is read ahead for one handle. Thread-safe. Starts no thread and reads nothing before it is asked.

    Args:
        names: all names, in file order.
        sizes: their bytes.
        start: starts a stream.
        limit: bytes that may be read ahead, by all handles of the process together.

    """

    _process = 0  # of a half-made one, which has nothing to stop

    def __init__(
        self,
        names: Sequence[str],
        sizes: Mapping[str, int],
        start: Start,
        limit: int,
    ) -> None:
        self._sizes = sizes
        self._start = start
        self._limit = limit
        self._window_bytes = max(1, min(limit // _WINDOWS_IN_LIMIT, _MOST_WINDOW_BYTES))
        self._total_bytes = sum(sizes.values())
        # What the stream of a slide has read: a window, while it begins with the largest tensor. And what is put aside.
        self._sliding_bytes = self._window_bytes + max((size for size in sizes.values() if self._fits(size)), default=0)
        self._slide_bytes = self._sliding_bytes + self._window_bytes
        self._slides = self._window_bytes >= _LEAST_SLIDING_BYTES  # until the caller leaves one
        self._lock = threading.RLock()  # a finalizer may run in the thread that holds it
        self._walk = Walk(names)
        self._asked: set[str] = set()  # in this walk
        self._windows: dict[Window, _Ahead] = {}
        self._window_of: dict[str, Window] = {}
        self._left_out: set[str] = set()  # was read ahead in this walk, and is not there any more
        self._waiting = 0  # threads
        self._last_asked = 0.0
        self._failed = False
        self._ended = False  # a window, or nearly a slide, since windows were started
        self._tensors = 0
        self._bytes_read = 0
        self._process = os.getpid()

    def take(self, name: str, *, sliced: bool) -> Any:
        """The tensor, or MISSING: then the caller reads it. `sliced`: it is asked for through a slice."""
        with self._lock:
            self._last_asked = time.monotonic()
            if name in self._asked:  # the caller walks once more
                self._asked.clear()
                self._left_out.clear()
                self._failed = False
                self._walk.restart()
            begins = not sliced and self._slides and self._is_large(name)
            turns = name in self._left_out
            self._walk.step(name, sliced=sliced, begins=begins, turns=turns)
            if turns and self._walk.walking:
                self._turn_back()
            # Nothing is to be done while what is asked for is there, which is nearly always.
            if (self._ended or name not in self._window_of) and self._walk.walking and not self._failed:
                self._ended = not self._top_up()
            self._asked.add(name)
            window = self._window_of.pop(name, None)
            if window is None:
                return MISSING
            self._waiting += 1
        tensor = MISSING
        try:
            tensor = window.take(name)
        finally:
            with self._lock:
                self._waiting -= 1
                self._last_asked = time.monotonic()
                self._handed_out(window, name, came=tensor is not MISSING)
        return tensor

    def stop(self) -> None:
        """Stops reading and gives back what nobody asked for. A later walk starts it again."""
        with self._lock:
            self._walk.restart()
            for window in list(self._windows):
                self._forget(window)

    def stop_if_idle(self, now: float) -> bool:
        """Stops if nobody asked for long, and nobody waits; returns whether nothing is read ahead now."""
        with self._lock:
            if self._windows and (self._waiting or now - self._last_asked < allowance.idle_seconds):
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
        """Starts what reads what comes next, until enough is reading; False if that has to wait for room."""
        while self._reading() < _MOST_READING:
            slides = self._slides and self._make_room(min(self._slide_bytes, self._total_bytes))
            if not slides and not self._make_room(min(self._window_bytes, self._total_bytes)):
                return False
            names, slides = self._next_names(slides)
            if not names:
                break
            nbytes = sum(self._sizes[name] for name in names)
            ahead = _Ahead(set(names), nbytes, min(nbytes, self._slide_bytes) if slides else nbytes)
            if not self._make_room(ahead.held) or not allowance.take(ahead.held, self._limit):  # others were quicker
                self._walk.plan_from(names[0])
                return False
            try:
                window = self._slide(names) if slides else Window(self._start(names, None))
                self._windows[window] = ahead
            except BaseException as error:
                allowance.give_back(ahead.held)
                if not isinstance(error, WeightstreamError):
                    raise
                self._failed = True  # who reads a tensor gets the error that concerns it
                _log.logger.debug("reading ahead failed: %s", error)
                break
            self._window_of.update(dict.fromkeys(names, window))
            self._left_out.difference_update(names)
            allowance.watch(self)
            _log.logger.debug("reading ahead: %d tensors, %d bytes, from %r on", len(names), nbytes, names[0])
        return True

    def _slide(self, names: list[str]) -> Slide:
        return Slide(self._start(names, self._sliding_bytes), names, self._sizes, most_aside=self._window_bytes)

    def _is_large(self, name: str) -> bool:
        """Whether reading on after it in vain costs no more than a few times as much as the tensor itself."""
        return self._window_bytes // _WINDOW_OF_LARGE <= self._sizes[name] and self._fits(self._sizes[name])

    def _fits(self, size: int) -> bool:
        return size <= self._limit // 2

    def _next_names(self, may_slide: bool) -> tuple[list[str], bool]:
        """The names of a window, or of a slide: then they are in file order, and more than a window has."""
        names: list[str] = []
        nbytes = 0
        ascends = may_slide
        last = -1
        for name in self._walk.ahead():
            size = self._sizes[name]
            if name in self._asked or name in self._window_of or not self._fits(size):
                continue
            position = self._walk.file_position(name)
            follows = ascends and position > last
            if names and nbytes + size > self._window_bytes and not follows:
                break
            ascends, last = follows, position
            names.append(name)
            nbytes += size
        return names, ascends and len(names) > 1 and nbytes > self._window_bytes

    def _reading(self) -> int:
        """How many windows are reading, or have read what is asked for next."""
        ahead = (window for window, ahead in self._windows.items() if not self._walk.is_behind(ahead.names))
        return sum(self._weight(window) for window in ahead)

    def _weight(self, window: Window) -> int:
        """For how many windows it counts: a slide for all, until what is left of it is no more than a window."""
        if window.drained:
            return 0
        long = isinstance(window, Slide) and self._windows[window].nbytes > self._window_bytes
        return _MOST_READING if long else 1

    def _make_room(self, nbytes: int) -> bool:
        """Whether there is room for `nbytes`; for that, what the caller left out is dropped, the oldest first."""
        behind = (window for window, ahead in list(self._windows.items()) if self._walk.is_behind(ahead.names))
        while allowance.used + nbytes > self._limit:
            window = next(behind, None)
            if window is None:
                return False
            self._left_out |= self._windows[window].names
            self._forget(window)
        return True

    def _turn_back(self) -> None:
        """Leaves what reads elsewhere, until something may be read where the caller is now."""
        for window in list(self._windows):
            if self._reading() < _MOST_READING:
                break
            if self._weight(window):
                self._leave(window)

    def _handed_out(self, window: Window, name: str, *, came: bool) -> None:
        self._tensors += came
        ahead = self._windows.get(window)
        if ahead is None:  # stopped meanwhile
            return
        held = ahead.held
        ahead.names.discard(name)
        ahead.nbytes -= self._sizes[name]
        for left in window.dropped():
            if self._window_of.pop(left, None) is not None:
                self._left_out.add(left)
                ahead.names.discard(left)
                ahead.nbytes -= self._sizes[left]
        allowance.give_back(held - ahead.held)
        weight = self._weight(window)
        self._ended = self._ended or weight < ahead.weight
        ahead.weight = weight
        lost = not came and not (isinstance(window, Slide) and window.is_past(name))
        if lost and window.error is not None:
            self._failed = True
            self._forget(window)
        elif lost and (self._walk.walking or window.drained):  # it is far from there, or was interrupted
            self._walk.plan_from(name)
            self._leave(window)
        elif not ahead.names:
            self._forget(window)

    def _leave(self, window: Window) -> None:
        """The caller walks elsewhere, and may come and go: from now on by windows, it can have several of them."""
        if isinstance(window, Slide):
            self._slides = False
        self._ended = True
        self._forget(window)

    def _forget(self, window: Window) -> None:
        ahead = self._windows.pop(window)
        for name in ahead.names:
            self._window_of.pop(name, None)
        try:
            self._bytes_read += window.stop()
        finally:
            allowance.give_back(ahead.held)
