"""A window that slides: one stream of many tensors, of which only the next ones are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, takewhile
from typing import Any

from .._stream import TensorStream
from ._window import Window


class Slide(Window):
    """The tensors of a stream in file order, for a caller who asks in that order. Thread-safe.

    The stream itself bounds what it has read and nobody took. What is put aside here, for others or because the caller
    left it out, reaches back only so far: what lies further behind goes. So a tensor may be missing: it is gone, or too
    far ahead.

    Args:
        stream: in file order.
        names: its tensors, in that order.
        sizes: their bytes.
        most_aside: bytes of the stream, from the first tensor that is put aside to where the stream is. Not of the
            tensors themselves: memory is given back in blocks, and a small tensor keeps all of its block.

    """

    def __init__(self, stream: TensorStream, names: Sequence[str], sizes: Mapping[str, int], most_aside: int) -> None:
        super().__init__(stream)
        self._most_aside = most_aside
        self._index = {name: index for index, name in enumerate(names)}
        self._begins = list(accumulate((sizes[name] for name in names), initial=0))
        self._unwanted: set[str] = set()
        self._dropped: list[str] = []

    def is_past(self, name: str) -> bool:
        """Whether the stream has handed it out."""
        return self._index[name] < self._next

    def dropped(self) -> list[str]:
        if not self._dropped:  # as mostly, and without the lock: then it is for the next who asks
            return []
        with self._changed:
            dropped, self._dropped = self._dropped, []
            return dropped

    @property
    def _next(self) -> int:
        return len(self._index) - self._left

    def _comes(self, name: str) -> bool:
        between = self._begins[self._index[name]] - self._begins[self._next]
        if not self.is_past(name) and between <= self._most_aside:
            return True
        self._unwanted.add(name)  # who asks for it reads it
        return False

    def _put_aside(self, name: str, tensor: Any) -> None:
        if name in self._unwanted:
            return
        super()._put_aside(name, tensor)
        reached = self._begins[self._next] - self._most_aside
        far = takewhile(lambda name: self._begins[self._index[name]] < reached, self._arrived)
        for name in [name for name in far if name not in self._awaited]:
            del self._arrived[name]
            self._dropped.append(name)
