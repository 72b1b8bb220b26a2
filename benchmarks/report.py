"""Renders results as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.imports import IMPORT_TIME
from benchmarks.startup import STARTUP

Result = dict[str, Any]
Row = dict[str, Any]

_NONE = "-"
_AFTER_SECONDS = 4


def _number(value: float | None, digits: int, factor: float = 1.0) -> str:
    return _NONE if value is None else f"{value * factor:.{digits}f}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [
        f"| {' | '.join(head)} |",
        "|" + "|".join("---" if index == 0 else "---:" for index in range(len(head))) + "|",
    ]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _label(contender: Row) -> str:
    return f"{contender['what']} ({contender['version'].removeprefix('fio-')})"


def _checked(contender: Row) -> str:
    return "yes" if any(run.get("verified") for run in contender["runs"]) else _NONE


def _loads(result: Result) -> str:
    head = ["loader", "GB/s", "seconds", "(min-max)", f"speed vs {result['baseline']}", "CPU-s/GB", "first tensor, ms"]
    head += ["peak memory growth, GB", "bytes checked"]
    if floor := result.get("floor_seconds"):
        head.insert(_AFTER_SECONDS, "of the floor")
    if ranks := any("ranks" in run for one in result["contenders"] for run in one["runs"]):
        head.append("from the disk, GB")
    if result.get("server"):
        head.append("server's CPU-s/GB")
    if _to_device(result):
        head += _DEVICE_HEAD
    rows = []
    for contender in result["contenders"]:
        numbers = contender["summary"]
        rows.append(
            [
                _label(contender),
                _number(numbers["gigabytes_per_second"], 2),
                _number(numbers["seconds"], 2),
                f"{_number(numbers['seconds_min'], 2)}-{_number(numbers['seconds_max'], 2)}",
                _number(numbers["ratio"], 2) + ("" if numbers["ratio"] is None else "x"),
                _number(numbers["cpu_seconds_per_gigabyte"], 2),
                _number(numbers["first_tensor"], 0, 1e3),
                _number(_peak(numbers), 2, 1e-9),
                _checked(contender),
            ]
        )
        if floor:
            rows[-1].insert(_AFTER_SECONDS, _number(numbers["seconds"] / floor, 2) + "x")
        if ranks:
            rows[-1].append(_number(numbers["disk_bytes"], 2, 1e-9))
        if result.get("server"):
            rows[-1].append(_number(numbers["server_cpu_seconds_per_gigabyte"], 2))
        if _to_device(result):
            rows[-1] += _device_cells(numbers)
    return _table(head, rows)


def _to_device(result: Result) -> bool:
    return str(result.get("device") or "cpu") != "cpu"


_DEVICE_HEAD = ["pinned, MB", "device memory taken, GB"]


def _device_cells(numbers: Row) -> list[str]:
    return [_number(numbers["pinned_bytes"], 0, 1e-6), _number(numbers["device_used"], 2, 1e-9)]


def _startup(result: Result) -> str:
    head = ["loader", "first tensor, ms", "(min-max)", f"speed vs {result['baseline']}", "of it: import, ms"]
    head += ["before it: torch, ms", "CUDA context, ms", "whole process, ms", "pinned, MB", "bytes checked"]
    rows = []
    for contender in result["contenders"]:
        numbers = contender["summary"]
        rows.append(
            [
                _label(contender),
                _number(numbers["seconds"], 0, 1e3),
                f"{_number(numbers['seconds_min'], 0, 1e3)}-{_number(numbers['seconds_max'], 0, 1e3)}",
                _number(numbers["ratio"], 2) + ("" if numbers["ratio"] is None else "x"),
                _number(numbers["loader_import_seconds"], 0, 1e3),
                _number(numbers["torch_seconds"], 0, 1e3),
                _number(numbers["context_seconds"], 0, 1e3),
                _number(numbers["process_seconds"], 0, 1e3),
                _number(numbers["pinned_bytes"], 0, 1e-6),
                _checked(contender),
            ]
        )
    return _table(head, rows)


def _peak(numbers: Row) -> float | None:
    found = [numbers[key] for key in ("peak_growth", "sampled_peak_growth") if numbers[key] is not None]
    return max(found, default=None)


def _per_tensor(result: Result) -> str:
    head = ["loader", "us a tensor", "CPU-us a tensor", "consumer thread's CPU-us a tensor"]
    head += [f"speed vs {result['baseline']}", "first tensor, ms", "GB/s", "bytes checked"]
    if _to_device(result):
        head += _DEVICE_HEAD
    rows = []
    for contender in result["contenders"]:
        numbers = contender["summary"]
        rows.append(
            [
                _label(contender),
                _number(numbers["microseconds_per_tensor"], 1),
                _number(numbers["cpu_microseconds_per_tensor"], 1),
                _number(numbers["consumer_cpu_microseconds_per_tensor"], 1),
                _number(numbers["ratio"], 2) + ("" if numbers["ratio"] is None else "x"),
                _number(numbers["first_tensor"], 1, 1e3),
                _number(numbers["gigabytes_per_second"], 2),
                _checked(contender),
            ]
        )
        if _to_device(result):
            rows[-1] += _device_cells(numbers)
    return _table(head, rows)


def _imports(result: Result) -> str:
    head = [
        "statement",
        "version",
        "import, ms",
        "(min-max)",
        "whole process, ms",
        "modules",
        "torch comes along",
        "numpy comes along",
    ]
    rows = []
    for contender in result["contenders"]:
        numbers, run = contender["summary"], contender["runs"][0]
        rows.append(
            [
                f"`{contender['what']}`",
                contender["version"],
                _number(numbers["seconds"], 1, 1e3),
                f"{_number(numbers['seconds_min'], 1, 1e3)}-{_number(numbers['seconds_max'], 1, 1e3)}",
                _number(numbers["process_seconds"], 0, 1e3),
                str(run["modules"]),
                "yes" if run["torch"] else "no",
                "yes" if run["numpy"] else "no",
            ]
        )
    return _table(head, rows)


def _rounds(result: Result) -> str:
    most = max((len(contender["runs"]) for contender in result["contenders"]), default=0)
    return "1 round" if most == 1 else f"{most} rounds"


def _conditions(result: Result) -> str:
    if result["scenario"] == IMPORT_TIME:
        return f"{_rounds(result)} in fresh processes, interleaved; medians. Files of the libraries are cached."
    data = result["data"]
    if result["scenario"] == STARTUP:
        return (
            f"The first tensor of {data['bytes'] / 1e9:.2f} GB in the page cache to {result['device']}; "
            f"{_rounds(result)} in fresh processes, interleaved; medians, speeds compared within each round."
        )
    files = "1 file" if data["files"] == 1 else f"{data['files']} files"
    server = f"from {result['server']}; " if result.get("server") else ""
    return (
        f"{data['bytes'] / 1e9:.2f} GB, {data['tensors']:,} tensors in {files}; {server}{_where(result)}; "
        f"the consumer {result['consumer']}; {_rounds(result)}, interleaved; "
        "medians, speeds compared within each round."
    )


def _where(result: Result) -> str:
    state = "on a tmpfs" if result["cache"] == "tmpfs" else f"page cache {result['cache']}"
    return f"{state}, to {result['device']}" if _to_device(result) else state


def _machine(result: Result) -> str:
    machine, source = result["machine"], result["source"]
    disk = machine["disk"]
    changed = " with changes on top" if source["dirty"] else ""
    if source["built"] and source["built"].removesuffix("-dirty") != source["commit"]:
        changed += f" (weightstream was built at {source['built'][:12]})"
    virtual = " (virtual machine)" if machine["virtual"] else ""
    gpu = result.get("gpu") or {}
    # What is mapped, or read through the page cache, is read from a disk by that.
    cold = result.get("cache") == "cold" and disk["read_ahead_kb"]
    ahead = f" (reads ahead {disk['read_ahead_kb']} KiB)" if cold else ""
    devices = f"{gpu['name']}, driver {gpu['driver_version']}, " if "name" in gpu else ""
    return (
        f"{result['date'][:10]}, commit {source['commit'][:12] or 'unknown'}{changed}. "
        f"{machine['cpu']}, {machine['cores']} cores{virtual}, {machine['memory_bytes'] / 2**30:.0f} GiB memory, "
        f"{devices}Linux {machine['kernel']}, {machine['filesystem']} on {disk['model'] or disk['name']}{ahead}, "
        f"Python {machine['python']}."
    )


def _remarks(result: Result) -> list[str]:
    remarks = [f"{name} was skipped: {reason}." for name, reason in result["skipped"].items()]
    remarks += [f"{name} failed: {reason}." for name, reason in result["failed"].items()]
    shares = [contender["summary"].get("others_cpu_share") for contender in result["contenders"]]
    highest = max((share for share in shares if share is not None), default=0.0)
    if highest > 0.1:
        remarks.append(
            f"Other work on the machine (kernel threads included) used up to {highest:.0%} of its CPU time meanwhile: "
            "trust the ratios and the CPU seconds more than the seconds."
        )
    if tried := result.get("disk_settings"):
        used = {run["setting"] for one in result["contenders"] for run in one["runs"] if "setting" in run}
        remarks.append(f"fio's best settings were {', '.join(sorted(used))}, of {len(tried)} tried.")
    if floor := result.get("floor_seconds"):
        remarks.append(f"The floor is {floor:.2f} s: {result['data']['bytes'] / 1e9:.2f} GB over 64 such connections.")
    targets = [] if result["tiny"] else result.get("targets", [])
    remarks += [
        f"Target {'met' if one['met'] else 'missed'}: {one['target']}; measured {one['value']:.3g}." for one in targets
    ]
    return remarks


def render(result: Result) -> str:
    """One result as a Markdown section."""
    if result["scenario"] == IMPORT_TIME:
        table = _imports(result)
    elif result["scenario"] == STARTUP:
        table = _startup(result)
    elif result["per_tensor"]:
        table = _per_tensor(result)
    else:
        table = _loads(result)
    title = f"## {result['scenario']}{' (tiny: tries the harness, measures nothing)' if result['tiny'] else ''}"
    parts = [title, result["question"], _conditions(result), table]
    if remarks := _remarks(result):
        parts.append("\n".join(f"- {remark}" for remark in remarks))
    parts.append(_machine(result))
    return "\n\n".join(parts) + "\n"


def save(result: Result, folder: Path) -> Path:
    """Write <date>-<scenario>.json and .md; a second result of one day gets a number. Returns the JSON's path."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{result['date'][:10]}-{result['scenario']}"
    number = 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}-{number}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    path.with_suffix(".md").write_text(render(result))
    return path


def latest(folder: Path) -> list[Path]:
    """The newest result of each scenario in a folder."""
    newest: dict[str, tuple[str, Path]] = {}
    for path in folder.glob("*.json"):
        result = json.loads(path.read_text())
        newest[result["scenario"]] = max(newest.get(result["scenario"], ("", path)), (result["date"], path))
    return [path for _, path in sorted(newest.values(), key=lambda pair: pair[1].name)]
