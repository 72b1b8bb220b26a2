"""Which tensors a caller will ask for next: the order that explains what it asked for so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from ..sources.names import natural

# Tensors that a caller may leave out between two that it asks for.
_LEFT_OUT = 4
# Several threads that walk together ask a little out of order.
_BACK = 32


class _Order:
    """One order of the names, made when it is first looked at."""

    def __init__(self, make: Callable[[], Sequence[str]]) -> None:
        self._make = make
        self._names: Sequence[str] | None = None
        self._positions: dict[str, int] = {}

    @property
    def names(self) -> Sequence[str]:
        return self._make_now() if self._names is None else self._names

    def position(self, name: str) -> int:
        if self._names is None:
            self._make_now()
        return self._positions[name]

    def _make_now(self) -> Sequence[str]:
        names = self._names = self._make()
        self._positions = {name: position for position, name in enumerate(names)}
        return names


class Walk:
    """Watches the names that a caller asks for. Not thread-safe.

    Callers walk a file in the order of `offset_keys()` (its offsets), of `keys()` (sorted), or by layers as people
    count them ("layers.2" before "layers.10"), as programs do that collect slices first and materialise them later.
    """

    def __init__(self, file_order: Sequence[str]) -> None:
        by_offset = _Order(lambda: file_order)
        by_name = _Order(lambda: sorted(file_order))
        by_layer = _Order(lambda: sorted(file_order, key=natural))
        self._of_tensors = (by_offset, by_name, by_layer)
        self._of_slices = (by_layer, by_name, by_offset)
        self._order: _Order | None = None
        self._last: str | None = None
        self._front = -1
        self._planned = 0  # position in the order from which on nothing was planned

    @property
    def walking(self) -> bool:
        """Whether what was asked for last follows what was asked for before in some order."""
        return self._order is not None

    def step(self, name: str, *, sliced: bool, begins: bool = False, turns: bool = False) -> None:
        """Notes that `name` is asked for, as a slice or as a tensor.

        `begins`: if it is the first of the file, and nothing was asked for before, it begins a walk in file order.
        `turns`: the caller had left it out, and comes back for it. However near that is, it is another walk.
        """
        if self._order is not None and not turns:
            position = self._order.position(name)
            if self._front - _BACK <= position <= self._front + _LEFT_OUT:
                self._front = max(self._front, position)
                self._last = name
                return
        last, self._last = self._last, name
        self._order = None
        if last is None:
            if begins and self.file_position(name) == 0:
                self._order = self._of_tensors[0]
                self._front = self._planned = 0
            return
        for order in self._of_slices if sliced else self._of_tensors:
            position = order.position(name)
            if 0 < position - order.position(last) <= _LEFT_OUT:
                self._order = order
                self._front = self._planned = position
                return

    def file_position(self, name: str) -> int:
        """Where the tensor stands in file order."""
        return self._of_tensors[0].position(name)

    def plan_from(self, name: str) -> None:
        """Takes back what was planned from `name` on."""
        if self._order is not None:
            self._planned = self._order.position(name)

    def is_behind(self, names: Iterable[str]) -> bool:
        """Whether the caller is past all of them."""
        order = self._order
        return order is not None and all(order.position(name) < self._front for name in names)

    def restart(self) -> None:
        """Forgets what was planned: the caller walks once more."""
        self._order = self._last = None

    def ahead(self) -> Iterator[str]:
        """The names that come next, from the one that was asked for last on; each only once, until the order changes.

        A name counts as planned when the one after it is asked of the iterator.
        """
        order = self._order
        if order is None:
            return
        while self._planned < len(order.names):
            yield order.names[self._planned]
            self._planned += 1
