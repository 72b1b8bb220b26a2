"""A window that slides: one stream of many tensors, of which only the next ones are in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from .._stream import TensorStream
from ._window import MISSING, Window


class Slide(Window):
    """The tensors of a stream in file order, for a caller who asks in that order. Thread-safe.

    The stream itself bounds what it has read and nobody took. What is put aside here, for others or because the caller
    left it out, is bounded as well: the oldest goes. So a tensor may be missing: it is gone, or too far ahead.

    Args:
        stream: in file order.
        names: its tensors, in that order.
        sizes: their bytes.
        most_aside: bytes that are put aside at most.

    """

    def __init__(self, stream: TensorStream, names: Sequence[str], sizes: Mapping[str, int], most_aside: int) -> None:
        super().__init__(stream)
        self._sizes = sizes
        self._aside = 0
        self._most_aside = most_aside
        self._index = {name: index for index, name in enumerate(names)}
        self._begins = list(accumulate((sizes[name] for name in names), initial=0))
        self._unwanted: set[str] = set()

    def is_past(self, name: str) -> bool:
        """Whether the stream has handed it out."""
        return self._index[name] < self._next

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
        self._aside += self._sizes[name]
        while self._aside > self._most_aside:
            self._take_aside(next(iter(self._arrived)))

    def _take_aside(self, name: str) -> Any:
        found = super()._take_aside(name)
        if found is not MISSING:
            self._aside -= self._sizes[name]
        return found
