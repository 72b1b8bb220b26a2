"""From runs to the numbers of a table: medians, and medians of the ratios within each round."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

Run = dict[str, Any]


def _cpu(run: Run) -> float:
    return float(run["cpu_user"] + run["cpu_system"])


def cpu_per_gigabyte(run: Run) -> float:
    """CPU seconds of the loader's process for each GB that it delivered."""
    return _cpu(run) / float(run["bytes"]) * 1e9


def rate(run: Run) -> float:
    """Bytes per second."""
    return float(run["bytes"] / run["seconds"])


def _ratios(runs: list[Run], baseline: list[Run]) -> list[float]:
    """How many times as fast as the baseline, round by round. Compared per byte: fio leaves a few out at the end."""
    base = {run["round"]: rate(run) for run in baseline}
    return [rate(run) / base[run["round"]] for run in runs if run["round"] in base]


def of_loads(runs: list[Run], baseline: list[Run]) -> dict[str, float | None]:
    """The summary of one contender's runs. Seconds, bytes, GB = 1e9 bytes; None where a number does not exist."""

    def middle(value: Callable[[Run], float], key: str = "seconds") -> float | None:
        values = [value(run) for run in runs if key in run]
        return median(values) if values else None

    ratios = _ratios(runs, baseline)
    return {
        "seconds": middle(lambda run: run["seconds"]),
        "seconds_min": min(run["seconds"] for run in runs),
        "seconds_max": max(run["seconds"] for run in runs),
        "gigabytes_per_second": middle(lambda run: rate(run) / 1e9),
        "ratio": median(ratios) if ratios else None,
        "ratio_min": min(ratios, default=None),
        "ratio_max": max(ratios, default=None),
        "cpu_seconds_per_gigabyte": middle(cpu_per_gigabyte),
        "server_cpu_seconds_per_gigabyte": middle(lambda run: run["server_cpu"] / run["bytes"] * 1e9, "server_cpu"),
        "first_tensor": middle(lambda run: run["first_tensor"], "first_tensor"),
        "microseconds_per_tensor": middle(lambda run: run["seconds"] / run["tensors"] * 1e6, "tensors"),
        "cpu_microseconds_per_tensor": middle(lambda run: _cpu(run) / run["tensors"] * 1e6, "tensors"),
        "consumer_cpu_microseconds_per_tensor": middle(
            lambda run: run["consumer_cpu"] / run["tensors"] * 1e6, "tensors"
        ),
        "peak_growth": max((run["peak_growth"] for run in runs if "peak_growth" in run), default=None),
        "sampled_peak_growth": max(
            (run["sampled_peak_growth"] for run in runs if "sampled_peak_growth" in run), default=None
        ),
        "pinned_bytes": _most(runs, "pinned_bytes"),
        "disk_bytes": middle(lambda run: run["disk_bytes"], "disk_bytes"),
        "device_used": _most(runs, "device_used"),
        "device_allocated_peak": _most(runs, "device_allocated_peak"),
        "others_cpu_share": middle(lambda run: run["others_cpu_share"], "others_cpu_share"),
    }


def _most(runs: list[Run], key: str) -> float | None:
    return max((run[key] for run in runs if run.get(key) is not None), default=None)


def of_startup(runs: list[Run], baseline: list[Run]) -> dict[str, float | None]:
    """The summary of one loader's starts, in seconds."""
    base = {run["round"]: run["seconds"] for run in baseline}
    ratios = [base[run["round"]] / run["seconds"] for run in runs if run["round"] in base]
    parts = ("torch_seconds", "context_seconds", "loader_import_seconds", "first_tensor", "process_seconds")
    return {
        "seconds": median(run["seconds"] for run in runs),
        "seconds_min": min(run["seconds"] for run in runs),
        "seconds_max": max(run["seconds"] for run in runs),
        **{part: median(run[part] for run in runs) for part in parts},
        "pinned_bytes": _most(runs, "pinned_bytes"),
        "ratio": median(ratios) if ratios else None,
    }


def of_imports(runs: list[Run], baseline: list[Run]) -> dict[str, float | None]:
    """The summary of one library's imports."""
    base = {run["round"]: run["seconds"] for run in baseline}
    ratios = [base[run["round"]] / run["seconds"] for run in runs if run["round"] in base]
    return {
        "seconds": median(run["seconds"] for run in runs),
        "seconds_min": min(run["seconds"] for run in runs),
        "seconds_max": max(run["seconds"] for run in runs),
        "process_seconds": median(run["process_seconds"] for run in runs),
        "cpu_seconds": median(run["cpu"] for run in runs),
        "peak": max(run["peak"] for run in runs),
        "ratio": median(ratios) if ratios else None,
    }
