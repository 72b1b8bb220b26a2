"""The bytes that all handles of a process have read ahead, under one limit; and the end of what nobody uses."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import Protocol

from .. import _log

_IDLE_SECONDS = 30.0


class _Idle(Protocol):
    def stop_if_idle(self, now: float) -> bool:
        """Stops if nobody asked for long; returns whether it has stopped, for whatever reason."""


class Allowance:
    """Bytes that were read ahead, or are about to be, and were not asked for yet. Thread-safe, and safe in finalizers.

    Attributes:
        used: bytes now.
        peak: the most bytes at any time.
        watching: whether a thread looks for what nobody uses.
        idle_seconds: after so long without a request, what was read ahead for a handle is given back.

    """

    def __init__(self) -> None:
        self.idle_seconds = _IDLE_SECONDS
        self.reset()

    def reset(self) -> None:
        """Begins anew, as in a forked child: it has no threads, its lock may be taken for ever, and nothing is read."""
        self._lock = threading.RLock()  # a finalizer may run in the thread that holds it
        self.used = 0
        self.peak = 0
        self._watched: weakref.WeakSet[_Idle] = weakref.WeakSet()
        self.watching = False

    def take(self, nbytes: int, limit: int) -> bool:
        """Takes `nbytes` if all that was taken stays within `limit`."""
        with self._lock:
            if self.used + nbytes > limit:
                return False
            self.used += nbytes
            self.peak = max(self.peak, self.used)
            return True

    def give_back(self, nbytes: int) -> None:
        """Gives back what was taken."""
        with self._lock:
            self.used -= nbytes

    def watch(self, ahead: _Idle) -> None:
        """Stops `ahead` when nobody asks it for long."""
        with self._lock:
            self._watched.add(ahead)
            if self.watching:
                return
            try:
                threading.Thread(target=self._watch, name="weightstream-idle", daemon=True).start()
            except RuntimeError as error:  # a limit of the system; whoever reads ahead next tries again
                _log.logger.warning("nothing looks for what is read ahead and not asked for: %s", error)
            else:
                self.watching = True

    def _watch(self) -> None:
        while True:
            time.sleep(self.idle_seconds / 4)
            now = time.monotonic()
            self._stop_idle(now)
            with self._lock:
                if not self._watched:
                    self.watching = False
                    return

    def _stop_idle(self, now: float) -> None:
        with self._lock:
            watched = list(self._watched)
        for ahead in watched:
            with self._lock:
                self._watched.discard(ahead)  # before it stops: what begins again right after that is watched anew
            if not ahead.stop_if_idle(now):
                with self._lock:
                    self._watched.add(ahead)


# Of the process: many handles are open at a time, one for each file of a checkpoint.
allowance = Allowance()

os.register_at_fork(after_in_child=allowance.reset)
