"""One stream out of which several threads take: what it keeps of the tensors, and of an error."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

from weightstream import ServerError
from weightstream.safetensors._window import MISSING, Window


class Stream:
    """What a window uses of a stream; raises `error` after its tensors."""

    def __init__(self, names: Iterable[str], error: Exception | None = None) -> None:
        self._names = list(names)
        self._coming = iter(self._names)
        self._error = error

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self

    def __next__(self) -> tuple[str, Any]:
        for name in self._coming:
            return name, name.upper()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        pass


def window(*names: str, error: Exception | None = None) -> Window:
    return Window(Stream(names, error))  # type: ignore[arg-type]


def test_each_is_taken_once() -> None:
    made = window("a", "b", "c")
    assert [made.take(name) for name in ("b", "a", "c", "b")] == ["B", "A", "C", MISSING]
    assert made.drained
    assert made.error is None


def test_an_error_keeps_nothing_of_the_callers() -> None:
    class Mine:
        """What a caller has collected so far."""

    def load() -> weakref.ref[Mine]:
        mine = Mine()
        made = window("a", "b", error=ServerError("broken"))
        assert made.take("a") == "A"
        assert made.take("c") is MISSING
        assert isinstance(made.error, ServerError)
        return weakref.ref(mine)

    gc.disable()
    try:
        assert load()() is None
    finally:
        gc.enable()
