"""Runs a scenario: all contenders, interleaved, round after round, and gathers the result."""

from __future__ import annotations

import contextlib
import datetime
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import caches, devices, files, imports, machine, startup, summary
from benchmarks.caches import CacheError
from benchmarks.contenders.fio import Limit
from benchmarks.layouts import LLAMA_8B, layouts
from benchmarks.measure import Conditions, WorkerError, contender_named, run_worker
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import SERVERS, Server

Result = dict[str, Any]
Measure = Callable[[str, int], dict[str, Any]]


@dataclass(frozen=True)
class Settings:
    """What the command line decides."""

    data: Path
    rounds: int
    contenders: tuple[str, ...] | None
    """None: those of the scenario."""
    baseline: str | None
    cache: str | None
    verify: bool
    tiny: bool
    device: str | None = None
    """None: that of the scenario. Another one for those that go to a GPU."""
    layers: int = LLAMA_8B.layers
    """Of the file for GPUs."""
    read_ahead: int | None = None
    """KiB that the disk reads ahead into the page cache. None: as the machine has it."""
    deadline: float = float("inf")
    """A time.monotonic() after which nothing more is begun; what was measured until then counts."""


def _say(text: str) -> None:
    print(text, flush=True)


class _Rounds:
    """Interleaved runs of contenders.

    The first of a round is the second of the round before, so that nobody always follows the same contender's mess.
    """

    def __init__(self, names: Sequence[str], settings: Settings) -> None:
        self._names = names
        self._rounds = settings.rounds
        self._deadline = settings.deadline
        self._failed: dict[str, str] = {}
        self._left_out: dict[str, str] = {}
        self.runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    @property
    def failed(self) -> dict[str, str]:
        """Contenders that gave an error or wrong bytes (later rounds leave them out), or never had a fit cache."""
        never = {name: reason for name, reason in self._left_out.items() if not self.runs[name]}
        return never | self._failed

    def measure(self, measure: Measure) -> None:
        """Run them all. Ctrl-C ends it early; what was measured until then counts."""
        try:
            for number in range(self._rounds):
                start = number % max(1, len(self._names))
                for name in (*self._names[start:], *self._names[:start]):
                    if time.monotonic() > self._deadline:
                        _say("  out of time: nothing more is begun")
                        return
                    if name not in self._failed:
                        self._one(name, number, measure)
        except KeyboardInterrupt:
            _say("  interrupted: no more rounds")

    def _one(self, name: str, number: int, measure: Measure) -> None:
        title = f"  round {number + 1}  {name:24}"
        try:
            run = measure(name, number)
        except CacheError as error:
            self._left_out[name] = str(error)
            _say(f"{title} left out: {error}")
            return
        except (WorkerError, OSError, subprocess.SubprocessError) as error:
            self._failed[name] = str(error)
            _say(f"{title} failed: {error}")
            return
        if run.get("verified") is False:
            self._failed[name] = f"delivered wrong bytes: {run['wrong'] or run['missing']}"
            _say(f"{title} {self._failed[name]}")
            return
        self.runs[name].append({"round": number, **run})
        speed = f"{run['bytes'] / run['seconds'] / 1e9:6.2f} GB/s" if "bytes" in run else ""
        _say(f"{title} {run['seconds']:8.3f} s  {speed}")


def _present(names: Sequence[str], missing: Callable[[str], str | None]) -> tuple[list[str], dict[str, str]]:
    skipped = {name: reason for name in names if (reason := missing(name))}
    for name, reason in skipped.items():
        _say(f"  {name:24} skipped: {reason}")
    return [name for name in names if name not in skipped], skipped


def _result(name: str, question: str, settings: Settings, baseline: str, **more: Any) -> Result:
    return {
        "scenario": name,
        "question": question,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "source": machine.commit(),
        "machine": machine.describe(settings.data),
        "rounds": settings.rounds,
        "tiny": settings.tiny,
        "baseline": baseline,
        **more,
    }


def _unfit(name: str, scenario: Scenario, device: str) -> str | None:
    contender = contender_named(name)
    if contender.from_urls and not scenario.server:
        return "it loads from servers only"
    if not contender.is_program and devices.kind(device) not in contender.devices:
        return f"it loads to {' or '.join(contender.devices)} only, not to {device}"
    return contender.missing()


def _device(scenario: Scenario, settings: Settings) -> str:
    """Where tensors go: scenarios of the CPU know no other."""
    return (settings.device or scenario.device) if scenario.device else "cpu"


def run_loads(scenario: Scenario, settings: Settings) -> Result:
    """Run a scenario in which checkpoints are loaded, from the disk or from its server."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(caches.read_ahead(settings.data, settings.read_ahead))
        server = stack.enter_context(SERVERS[scenario.server](settings.data)) if scenario.server else None
        return _run_loads(scenario, settings, server)


def _run_loads(scenario: Scenario, settings: Settings, server: Server | None) -> Result:
    device = _device(scenario, settings)
    names, skipped = _present(settings.contenders or scenario.contenders, lambda name: _unfit(name, scenario, device))
    found = layouts(tiny=settings.tiny, layers=settings.layers)
    data = files.make(found[scenario.data], settings.data)
    primer = files.make(found["primer"], settings.data)
    cache = settings.cache or scenario.cache
    limit: Limit | None = None
    if cache == "warm":
        caches.make_cold(data.files)
        caches.make_warm(data.files)

    def measure(name: str, number: int) -> dict[str, Any]:
        nonlocal limit
        contender = contender_named(name)
        if contender.is_program:
            limit = limit or Limit()
            return limit.run(data.files)
        conditions = Conditions(
            cache=cache,
            keep=scenario.consumer_keeps,
            sample_memory=scenario.sample_memory,
            verify=settings.verify and number == 0,
            server=server,
            device=device,
            ranks=scenario.ranks,
        )
        return run_worker(contender, data, primer, conditions)

    rounds = _Rounds(names, settings)
    rounds.measure(measure)
    runs = rounds.runs
    baseline = settings.baseline or scenario.baseline
    floor = data.nbytes / scenario.link_bytes_per_second if scenario.link_bytes_per_second else None
    result = _result(
        scenario.name,
        scenario.question,
        settings,
        baseline,
        cache=cache,
        consumer="keeps every tensor" if scenario.consumer_keeps else "drops each tensor",
        per_tensor=scenario.per_tensor,
        data={"name": data.name, "bytes": data.nbytes, "tensors": data.tensors, "files": len(data.files)},
        server=server.describe() if server else None,
        device=device,
        gpu=devices.describe(device),
        floor_seconds=floor,
        targets=[checked for target in scenario.targets if (checked := target.check(runs, floor))],
        skipped=skipped,
        failed=rounds.failed,
    )
    result["contenders"] = [
        {
            "name": name,
            "what": contender_named(name).what_to(device),
            "version": runs[name][0]["version"],
            "summary": summary.of_loads(runs[name], runs.get(baseline, [])),
            "runs": runs[name],
        }
        for name in names
        if runs[name]
    ]
    if limit:
        result["disk_settings"] = limit.tried
    return result


def run_imports(settings: Settings) -> Result:
    """Run the import-time scenario."""
    names, skipped = _present(settings.contenders or tuple(imports.STATEMENTS), imports.missing)
    for name in names:
        imports.run(name)
    rounds = _Rounds(names, settings)
    rounds.measure(lambda name, _: imports.run(name))
    runs = rounds.runs
    baseline = settings.baseline or imports.BASELINE
    result = _result(imports.IMPORT_TIME, imports.QUESTION, settings, baseline, skipped=skipped, failed=rounds.failed)
    result["contenders"] = [
        {
            "name": name,
            "what": imports.STATEMENTS[name],
            "version": runs[name][0]["version"],
            "summary": summary.of_imports(runs[name], runs.get(baseline, [])),
            "slowest_modules": imports.slowest(name),
            "runs": runs[name],
        }
        for name in names
        if runs[name]
    ]
    return result


def run_startup(settings: Settings) -> Result:
    """Run the start-up scenario: the first tensor on a GPU, in fresh processes."""
    device = settings.device or "cuda:0"
    data = files.make(layouts(tiny=settings.tiny, layers=settings.layers)["llama-file"], settings.data)

    def missing(name: str) -> str | None:
        contender = contender_named(name)
        fit = devices.kind(device) in contender.devices
        return contender.missing() if fit else f"it loads to {' or '.join(contender.devices)} only, not to {device}"

    names, skipped = _present(settings.contenders or startup.CONTENDERS_OF, missing)
    rounds = _Rounds(names, settings)

    def measure(name: str, _: int) -> dict[str, Any]:
        caches.make_warm(data.files)
        return startup.run(name, data, device)

    rounds.measure(measure)
    runs = rounds.runs
    baseline = settings.baseline or startup.BASELINE
    result = _result(
        startup.STARTUP,
        startup.QUESTION,
        settings,
        baseline,
        data={"name": data.name, "bytes": data.nbytes, "tensors": data.tensors, "files": len(data.files)},
        device=device,
        gpu=devices.describe(device),
        skipped=skipped,
        failed=rounds.failed,
    )
    result["contenders"] = [
        {
            "name": name,
            "what": contender_named(name).what_to(device),
            "version": runs[name][0]["version"],
            "summary": summary.of_startup(runs[name], runs.get(baseline, [])),
            "runs": runs[name],
        }
        for name in names
        if runs[name]
    ]
    return result


def run(name: str, settings: Settings) -> Result:
    """Run one scenario by its name.

    Raises ValueError for names that do not exist, OSError when the disk is too small for the checkpoint.
    """
    if name == imports.IMPORT_TIME:
        return run_imports(settings)
    if name == startup.STARTUP:
        return run_startup(settings)
    return run_loads(SCENARIOS[name], settings)
