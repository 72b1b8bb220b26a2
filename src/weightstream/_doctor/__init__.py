"""Looking at a location and at this machine, step by step. The command `weightstream doctor` is its face."""

from __future__ import annotations

from collections.abc import Iterator

from . import machine
from .steps import Clock, Step
from .storage import Examination

__all__ = ["Doctor", "Step"]

_SECONDS = 28.0


class Doctor:
    """One examination, which ends within half a minute whatever is broken.

    Attributes:
        abandoned: a call that nothing can interrupt still runs in a thread of this process.

    """

    def __init__(self, location: str) -> None:
        self._location = location
        self._clock = Clock(_SECONDS)

    @property
    def abandoned(self) -> bool:
        """See above."""
        return self._clock.abandoned

    def steps(self) -> Iterator[Step]:
        """Yields each step when it is done. Never raises a WeightstreamError."""
        for name, work in machine.steps():
            yield self._clock.run(name, work, 3)
        yield from Examination(self._location, self._clock).steps()
