"""What weightstream has to reach in a scenario, and whether it did."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.summary import Run, cpu_per_gigabyte, rate

FLOOR = "the floor"
"""Instead of a contender: the time that the link itself needs."""


def _peak(run: Run) -> float:
    return float(max(run["peak_growth"], run.get("sampled_peak_growth", 0)))


_MEASURES: dict[str, Callable[[Run], float]] = {
    "CPU-s/GB": cpu_per_gigabyte,
    "speed": rate,
    "seconds": lambda run: float(run["seconds"]),
    "peak memory growth, GB": lambda run: _peak(run) / 1e9,
}


@dataclass(frozen=True)
class Target:
    """A bound for one number of one contender, by itself or as a multiple of another's in the same round."""

    contender: str
    measure: str
    """One of CPU-s/GB, speed, seconds, and "peak memory growth, GB" (of all rounds the highest)."""
    limit: float
    of: str = ""
    """The contender that `limit` is a multiple of, or FLOOR."""

    @property
    def at_least(self) -> bool:
        return self.measure == "speed"

    def __str__(self) -> str:
        bound = f"{'at least' if self.at_least else 'at most'} {self.limit:g}"
        return f"{self.contender}: {self.measure} {bound}{f' of {self.of}' if self.of else ''}"

    def check(self, runs: Mapping[str, list[Run]], floor: float | None) -> dict[str, Any] | None:
        """The target's text, the value that was measured and whether it is met; None when nobody measured it."""
        measure = _MEASURES[self.measure]
        mine = {run["round"]: measure(run) for run in runs.get(self.contender, [])}
        if self.of == FLOOR:
            values = [value / floor for value in mine.values()] if floor else []
        elif self.of:
            theirs = {run["round"]: measure(run) for run in runs.get(self.of, [])}
            values = [value / theirs[number] for number, value in mine.items() if number in theirs]
        else:
            values = list(mine.values())
        if not values:
            return None
        value = max(values) if self.measure.startswith("peak") else median(values)
        return {
            "target": str(self),
            "value": value,
            "met": value >= self.limit if self.at_least else value <= self.limit,
        }
