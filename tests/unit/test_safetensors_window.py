"""One stream out of which several threads take: what it keeps of the tensors, and of an error."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from processes import wait_until
from weightstream import ServerError
from weightstream.safetensors._slide import Slide
from weightstream.safetensors._window import MISSING, Window


class Stream:
    """What a window uses of a stream; calls `before` before each tensor, and raises `error` after them."""

    def __init__(
        self, names: Iterable[str], error: Exception | None = None, before: Callable[[], object] = list
    ) -> None:
        self.names = list(names)
        self._coming = iter(self.names)
        self._error = error
        self._before = before

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self

    def __next__(self) -> tuple[str, Any]:
        self._before()
        for name in self._coming:
            return name, name.upper()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        pass


def window(*names: str, **settings: Any) -> Window:
    return Window(Stream(names, **settings))  # type: ignore[arg-type]


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


def slide(stream: Stream, most_aside: int) -> Slide:
    names = stream.names
    return Slide(stream, names, dict.fromkeys(names, 10), most_aside=most_aside)  # type: ignore[arg-type]


def test_a_slide_keeps_what_lies_no_further_back_than_it_may() -> None:
    made = slide(Stream("abcdef"), 20)
    assert [made.take(name) for name in "cf"] == ["C", "F"]  # "a" and "b" go as "d" and "e" are put aside
    assert [made.take(name) for name in "abde"] == [MISSING, MISSING, "D", "E"]


def test_a_slide_keeps_what_a_thread_waits_for() -> None:
    made = slide(Stream("abcdef"), 20)
    made._awaited.add("a")  # by a thread that the others have run ahead of
    assert [made.take(name) for name in "cf"] == ["C", "F"]
    assert [made.take(name) for name in "abde"] == ["A", MISSING, "D", "E"]


def test_a_thread_waits_while_another_takes() -> None:
    goes_on = threading.Event()
    made = window("a", "b", before=goes_on.wait)
    with ThreadPoolExecutor(2) as pool:
        taking = pool.submit(made.take, "b")
        wait_until(lambda: made._taking)
        waiting = pool.submit(made.take, "a")
        wait_until(lambda: made._awaited == {"a"})
        goes_on.set()
        assert (taking.result(), waiting.result()) == ("B", "A")
    assert not made._awaited
