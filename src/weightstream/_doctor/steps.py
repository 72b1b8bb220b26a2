"""A step of an examination: what was looked at, what was found, what to do. It always ends, and in time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from .._errors import WeightstreamError
from . import advice

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        name: a word or two.
        status: "warn": it works, but could work better. "fail": loading will fail.
        summary: what was found, in one line without secrets.
        advice: what to do about it; None when there is nothing to do.
        details: the same as numbers, for programs.

    """

    name: str
    status: Status
    summary: str
    advice: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)


def failed(name: str, error: Exception) -> Step:
    """What went wrong, as a step."""
    if isinstance(error, WeightstreamError):
        details = {"error": type(error).__name__, "http_status": error.status, "errno": error.errno}
        return Step(name, "fail", str(error), advice.about(error), {k: v for k, v in details.items() if v is not None})
    # A text that nobody translated may repeat a secret.
    return Step(
        name,
        "fail",
        f"an unexpected {type(error).__name__}",
        "run `weightstream load` on it with --debug, and report what it shows",
        {"error": type(error).__name__},
    )


class Clock:
    """Runs steps one after the other until the time for all of them is up.

    Attributes:
        abandoned: a step did not end in time, and its thread may still wait in a call that nothing can interrupt.

    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.abandoned = False

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self._end - time.monotonic())

    def run(self, name: str, work: Callable[[], Step], seconds: float) -> Step:
        """The step that `work` makes; a failed one when it raises, or takes longer than `seconds`."""
        limit = min(seconds, self.left)
        if limit <= 0:
            return Step(name, "fail", "there was no time left for it", "the steps before it say what took so long")
        steps: list[Step] = []

        def run() -> None:
            try:
                steps.append(work())
            except Exception as error:
                steps.append(failed(name, error))

        thread = threading.Thread(target=run, name=f"weightstream-doctor-{name}", daemon=True)
        thread.start()
        try:
            thread.join(limit)
        except BaseException:
            self.abandoned = True
            raise
        if not steps:
            self.abandoned = True
            return Step(
                name,
                "fail",
                f"it did not end within {limit:.0f} seconds",
                "the storage, or the way to it, hangs: check the endpoint, the network or the mount",
            )
        return steps[0]
