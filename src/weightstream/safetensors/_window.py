"""One stream that reads some tensors ahead, out of which several threads take what they need by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .._errors import WeightstreamError
from .._stream import TensorStream

MISSING = object()


class Window:
    """The tensors of one running stream, by name. Thread-safe.

    Whoever asks for a tensor that has not arrived takes from the stream until it has; meanwhile others who wait get
    theirs as it comes by.
    """

    def __init__(self, stream: TensorStream) -> None:
        self._stream = stream
        self._arrived: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._taking = False
        self._awaited: set[str] = set()  # by threads while another one takes
        self._ended = False
        self._error: WeightstreamError | None = None
        self._left = len(stream)  # in the stream

    def take(self, name: str) -> Any:
        """The tensor, each once; MISSING if the stream ended without it."""
        with self._changed:
            while True:
                found = self._take_aside(name)
                if found is not MISSING or self._ended or not self._comes(name):
                    return found
                if not self._taking:
                    break
                self._awaited.add(name)
                try:
                    self._changed.wait()
                finally:
                    self._awaited.discard(name)
            self._taking = True
        found = self._take_from_stream(name.__eq__)
        return MISSING if found is None else found[1]

    def take_next(self, claim: Callable[[str], bool]) -> tuple[str, Any] | None:
        """A tensor that `claim` agrees to, of those that arrived or that come next; None at the end."""
        with self._changed:
            while True:
                name = next(filter(claim, self._arrived), None)
                if name is not None:
                    return name, self._arrived.pop(name)
                if self._ended:
                    return None
                if not self._taking:
                    break
                self._changed.wait()
            self._taking = True
        return self._take_from_stream(claim)

    @property
    def error(self) -> WeightstreamError | None:
        """What ended the stream, if that was an error."""
        return self._error

    @property
    def drained(self) -> bool:
        """Whether all of it has been taken from the stream, or it has ended: it reads no more."""
        return self._ended

    def stop(self) -> int:
        """Stops reading, drops what nobody asked for, and returns the bytes that storage delivered. Idempotent."""
        self._stream.close()
        with self._changed:
            self._ended = True
            self._arrived.clear()
            self._changed.notify_all()
        return self.bytes_read()

    def bytes_read(self) -> int:
        """Bytes that storage delivered so far."""
        return self._stream.stats.bytes_read

    def dropped(self) -> list[str]:
        """What was put aside and is gone since this was last asked: nobody came for it."""
        return []

    # For windows that do not keep everything; under the lock.

    def _comes(self, _name: str) -> bool:
        """Whether it is worth waiting for a tensor that has not arrived."""
        return True

    def _put_aside(self, name: str, tensor: Any) -> None:
        self._arrived[name] = tensor

    def _take_aside(self, name: str) -> Any:
        return self._arrived.pop(name, MISSING)

    def _take_from_stream(self, claim: Callable[[str], bool]) -> tuple[str, Any] | None:
        ended = True
        try:
            for arrived, tensor in self._stream:
                if claim(arrived):
                    self._left -= 1
                    ended = self._left == 0
                    return arrived, tensor
                with self._changed:
                    self._left -= 1
                    self._put_aside(arrived, tensor)
                    self._changed.notify_all()
        except WeightstreamError as error:
            # Without its traceback, which has this frame, and by that the window and all that the callers hold.
            self._error = error.with_traceback(None)
        finally:
            with self._changed:
                self._taking = False
                self._ended = self._ended or ended
                self._changed.notify_all()
            if ended:
                self._stream.close()
        return None
