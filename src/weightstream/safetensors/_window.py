"""One stream that reads some tensors ahead, out of which several threads take what they need by name."""

from __future__ import annotations

import threading
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
        self._ended = False
        self._left = len(stream)  # in the stream

    def take(self, name: str) -> Any:
        """The tensor, each once; MISSING if the stream ended without it."""
        with self._changed:
            while True:
                found = self._arrived.pop(name, MISSING)
                if found is not MISSING or self._ended:
                    return found
                if not self._taking:
                    break
                self._changed.wait()
            self._taking = True
        return self._take_from_stream(name)

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

    def _take_from_stream(self, name: str) -> Any:
        ended = True
        try:
            for arrived, tensor in self._stream:
                self._left -= 1
                if arrived == name:
                    ended = self._left == 0
                    return tensor
                with self._changed:
                    self._arrived[arrived] = tensor
                    self._changed.notify_all()
        except WeightstreamError:
            pass  # who needs a tensor that did not come reads it itself, and gets the error that concerns it
        finally:
            with self._changed:
                self._taking = False
                self._ended = self._ended or ended
                self._changed.notify_all()
            if ended:
                self._stream.close()
        return MISSING
