"""The loader of `safe_open.prefetch`: a running stream that hands each tensor out once, by name or as it arrives."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from safetensors import SafetensorError

from .._stream import TensorStream
from .._tensors import TensorInfo
from ._arguments import check_name
from ._errors import ClosedError, reraise
from ._window import MISSING, Window

if TYPE_CHECKING:
    from typing_extensions import Self

# What safetensors has as the default of `threads`; here it says that the reader finds out.
_DEFAULT_THREADS = 8
_MOST_CONCURRENCY = 1024


class PrefetchLoader:
    """Tensors that are being loaded. Made by `safe_open.prefetch`; works also after the handle was closed. Thread-safe.

    A tensor that was handed out is the caller's.

    Example:
        >>> with f.prefetch({"lm_head.weight": slice(0, 4000)}, device="cuda:0") as loader:
        ...     rows = loader.take("lm_head.weight")

    """

    def __init__(self, stream: TensorStream, names: Sequence[str]) -> None:
        self._window = Window(stream)
        self._names = names
        self._left = set(names)
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._closed = False

    def names(self) -> list[str]:
        """The names of all tensors that it hands out, in file order."""
        return list(self._names)

    def __len__(self) -> int:
        """How many tensors it hands out in all."""
        return len(self._names)

    def take(self, name: str) -> Any:
        """The tensor, or the rows that were planned; waits until they are there. Each may be taken once.

        What arrives before it is kept, beyond the memory limit if need be: iterating the loader never needs more.

        Raises:
            SafetensorError: it is not in the plan, was handed out already, could not be read, or the loader is closed,
                or made in the process that this one was forked from.

        """
        check_name(name)
        self._check_process()
        with self._lock:
            if self._closed:
                raise ClosedError("prefetch loader closed")
            if name not in self._left:
                if name in self._names:
                    raise SafetensorError(
                        "tensor already delivered (prefetch hands each tensor out once, via take or iteration)"
                    )
                raise SafetensorError(f"{name} is not in the prefetch plan")
            self._left.remove(name)
        tensor = self._window.take(name)
        if tensor is MISSING:
            self._fail()
        return tensor

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """(name, tensor) as they arrive; those that were taken already are left out."""
        while self._left:
            self._check_process()
            found = None if self._closed else self._window.take_next(self._claim)
            if found is not None:
                yield found
            elif self._left:  # and not with others, who took what was left
                self._fail()

    def _claim(self, name: str) -> bool:
        with self._lock:
            if name not in self._left:
                return False
            self._left.remove(name)
            return True

    def close(self) -> None:
        """Stops loading and drops what was not handed out. Idempotent."""
        self._closed = True
        if self._process == os.getpid():
            self._window.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _check_process(self) -> None:
        """Before any lock is taken: a thread of the parent's may have held it at the fork."""
        if self._process != os.getpid():
            raise ClosedError(
                f"this loader was made in process {self._process}; make one of its own in this forked process"
            )

    def _fail(self) -> NoReturn:
        if self._window.error is not None and not self._closed:
            reraise(self._window.error)
        raise ClosedError("prefetch loader closed")


def check_plan(plan: Any) -> None:
    """Raises what safetensors raises for what is no plan."""
    if plan is None:
        return
    if not isinstance(plan, Mapping):
        raise TypeError(f"argument 'plan': '{type(plan).__name__}' object is not an instance of 'dict'")
    if not plan:
        raise SafetensorError("prefetch plan selects no tensors")
    for name in plan:
        check_name(name)


def concurrency_of(threads: Any) -> int | None:
    """The reads in flight that were asked for; None lets the reader find out."""
    number = operator.index(threads)
    if number < 0:
        raise OverflowError("can't convert negative int to unsigned")
    return None if number in (0, _DEFAULT_THREADS) else min(number, _MOST_CONCURRENCY)


def part_of(info: TensorInfo, rows: Any) -> tuple[str, int, int, Sequence[int]]:
    """(name, begin, end, shape) of the rows of a tensor that are planned: None for all, or a slice.

    Raises:
        SafetensorError: something else, a step other than 1, a tensor without rows, or rows beyond its last one.

    """
    name, shape = info.name, info.shape
    if rows is None:
        return name, 0, info.nbytes, shape
    if not isinstance(rows, slice):
        raise SafetensorError(f"prefetch plan values must be None or a slice, got {type(rows)} for {name}")
    if not shape:
        raise SafetensorError(f"cannot slice rows of the 0-d tensor {name}")
    try:
        first, last, step = rows.indices(shape[0])
    except (TypeError, ValueError) as error:
        raise SafetensorError(f"prefetch plan slice bounds for {name} are not whole numbers: {error}") from error
    if step != 1:
        raise SafetensorError(f"prefetch plan slices must have step 1, got {step} for {name}")
    for what, bound in (("start", rows.start), ("stop", rows.stop)):
        if bound is not None and not -shape[0] <= operator.index(bound) <= shape[0]:
            raise SafetensorError(f"prefetch plan slice {what} {bound} for {name} is out of range for {shape[0]} rows")
    last = max(first, last)
    if shape[0] == 0 or info.nbytes % shape[0]:
        if last - first == shape[0]:
            return name, 0, info.nbytes, shape
        raise SafetensorError(f"the rows of {name} are no whole bytes; plan the whole tensor")
    row = info.nbytes // shape[0]
    return name, first * row, last * row, (last - first, *shape[1:])
