"""Runs contenders in processes of their own and brings the page cache and the memory into the same state for each."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import caches, memory
from benchmarks.caches import CacheError
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.files import MANIFEST, DataSet
from benchmarks.machine import disk
from benchmarks.servers import Server, ServerError
from benchmarks.worker import Job

ROOT = Path(__file__).resolve().parent.parent
STEP_SECONDS = 900.0
SAMPLE_SECONDS = 0.05
CACHE_TRIES = 10
CACHE_WAIT_SECONDS = 2.0
_SECTOR = 512  # what /sys counts in, whatever the disk has
_TICK = os.sysconf("SC_CLK_TCK")


class WorkerError(RuntimeError):
    """A worker failed, died or hung; the message is the last that it said."""


class Worker:
    """One worker process. A context manager: the process is gone afterwards."""

    def __init__(self, job: Job, environment: dict[str, str] | None = None) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=os.environ | (environment or {}),
        )
        self._selector = selectors.DefaultSelector()
        assert self._process.stdout is not None
        self._selector.register(self._process.stdout, selectors.EVENT_READ)
        self._send(asdict(job))

    @property
    def pid(self) -> int:
        return self._process.pid

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise WorkerError(self._last_words()) from error

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"the worker ended with status {self._process.poll()}"

    def expect(self, what: str, while_waiting: Callable[[], None] | None = None) -> dict[str, Any]:
        """The worker's next message, which must be `what`; calls `while_waiting` every 50 ms until it comes."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + STEP_SECONDS
        while not self._selector.select(SAMPLE_SECONDS if while_waiting else STEP_SECONDS):
            if while_waiting:
                while_waiting()
            if time.monotonic() > deadline:
                raise WorkerError(f"no answer in {STEP_SECONDS:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise WorkerError(self._last_words())
        message: dict[str, Any] = json.loads(line)
        if message.pop("say") != what:
            raise WorkerError(message.get("error", f"unexpected answer {message}"))
        return message

    def tell(self, do: str) -> None:
        self._send({"do": do})

    def ask(
        self, do: str, answer: str, while_waiting: Callable[[], None] | None = None, **fields: Any
    ) -> dict[str, Any]:
        self._send({"do": do, **fields})
        return self.expect(answer, while_waiting)

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(60 if kind is None else 1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._selector.close()
        self._errors.close()


class SystemCpu:
    """CPU time of the whole machine between two moments: shows what ran beside the process under test."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._start = self._busy()

    @staticmethod
    def _busy() -> float:
        fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        user, nice, system, _idle, _iowait, irq, softirq, steal = fields
        return (user + nice + system + irq + softirq + steal) / _TICK

    def others_share(self, own: float) -> float:
        """The share of the machine's CPU time that anything but `own` seconds, those of loader and server, used."""
        capacity = (time.monotonic() - self._since) * len(os.sched_getaffinity(0))
        return min(1.0, max(0.0, self._busy() - self._start - own) / capacity)


@dataclass(frozen=True)
class Conditions:
    """The state in which a contender runs, and what it does with the tensors."""

    cache: str
    """ "cold", "warm" or "tmpfs". """
    keep: bool
    sample_memory: bool
    verify: bool
    server: Server | None = None
    """Where the files are loaded from, unless it is the disk."""
    device: str = "cpu"
    """Where the tensors go."""
    ranks: int = 1
    """How many processes load all of it at the same time."""


def converted(contender: Contender, files: Sequence[Path]) -> list[Path]:
    """The files in the format that the contender reads, made when they are not there."""
    if not contender.own_format:
        return list(files)
    job = Job(contender.name, [str(path) for path in files], [], keep=False, convert=True)
    with Worker(job, dict(contender.environment)) as worker:
        return [Path(name) for name in worker.expect("converted")["files"]]


def prepare_cache(files: Sequence[Path], state: str) -> str:
    """Bring the files into the state, if need be by waiting until others let go of them; says how it was done."""
    for _ in range(CACHE_TRIES - 1):
        try:
            return caches.PREPARE[state](files)
        except CacheError:
            time.sleep(CACHE_WAIT_SECONDS)
    return caches.PREPARE[state](files)


def _job(contender: Contender, data: DataSet, primer: DataSet, conditions: Conditions) -> Job:
    server = conditions.server
    files = list(data.files) if server else converted(contender, data.files)
    primers = list(primer.files) if server else converted(contender, primer.files)
    return Job(
        contender=contender.name,
        files=[server.url(path) if server else str(path) for path in files],
        primer=[server.url(path, primer=True) if server else str(path) for path in primers],
        keep=conditions.keep,
        checksums=str(data.folder / MANIFEST),
        device=conditions.device,
    )


def _run_worker(contender: Contender, data: DataSet, primer: DataSet, conditions: Conditions) -> dict[str, Any]:
    server = conditions.server
    files = list(data.files) if server else converted(contender, data.files)
    environment = dict(contender.environment) | (server.environment if server else {})
    with Worker(_job(contender, data, primer, conditions), environment) as worker:
        worker.expect("ready")
        method = prepare_cache(files, conditions.cache)
        # What goes to a device takes less of the host's memory.
        wanted = data.nbytes * (2 if conditions.device == "cpu" else 1)
        warmed = worker.ask("prewarm", "prewarmed", bytes=wanted)
        if conditions.cache == "warm":
            prepare_cache(files, conditions.cache)
        resident = caches.check(files, conditions.cache)
        samples: list[dict[str, int]] = []
        before = memory.rollup(worker.pid)["resident"]

        def sample() -> None:
            samples.append(memory.rollup(worker.pid))

        system = SystemCpu()
        served = server.cpu_seconds() if server else 0.0
        measured = worker.ask("go", "done", sample if conditions.sample_memory else None)
        own = measured["cpu_user"] + measured["cpu_system"]
        if server:
            measured["server_cpu"] = server.cpu_seconds() - served
            own += measured["server_cpu"]
        measured["others_cpu_share"] = system.others_share(own)
        if samples:
            measured["sampled_peak_growth"] = max(one["resident"] for one in samples) - before
            measured["samples"] = len(samples)
        if conditions.verify:
            measured |= worker.ask("verify", "verified")
    if measured["bytes"] != data.nbytes or measured["tensors"] != data.tensors:
        raise WorkerError(f"delivered {measured['tensors']} tensors of {measured['bytes']} bytes")
    return {
        **measured,
        "cache_method": method,
        "residency": resident,
        "prewarmed_bytes": warmed["bytes"],
        "prewarm_seconds": warmed["seconds"],
    }


def _run_ranks(contender: Contender, data: DataSet, primer: DataSet, conditions: Conditions) -> dict[str, Any]:
    """Several workers that load the same local files from the same moment on."""
    job = _job(contender, data, primer, conditions)
    files = converted(contender, data.files)
    with contextlib.ExitStack() as stack:
        ranks = [stack.enter_context(Worker(job, dict(contender.environment))) for _ in range(conditions.ranks)]
        for rank in ranks:
            rank.expect("ready")
        warmed = [rank.ask("prewarm", "prewarmed", bytes=data.nbytes) for rank in ranks]
        method = prepare_cache(files, conditions.cache)
        resident = caches.check(files, conditions.cache)
        system, from_disk = SystemCpu(), disk_bytes(data.folder)
        for rank in ranks:
            rank.tell("go")
        runs = [rank.expect("done") for rank in ranks]
        from_disk = disk_bytes(data.folder) - from_disk
        others = system.others_share(sum(run["cpu_user"] + run["cpu_system"] for run in runs))
        verified = [rank.ask("verify", "verified") for rank in ranks] if conditions.verify else []
    for run in runs:
        if run["bytes"] != data.nbytes or run["tensors"] != data.tensors:
            raise WorkerError(f"delivered {run['tensors']} tensors of {run['bytes']} bytes")
    sums = {
        key: sum(run[key] for run in runs) for key in ("bytes", "tensors", "cpu_user", "cpu_system", "consumer_cpu")
    }
    highest = {key: max(run[key] for run in runs) for key in ("seconds", "first_tensor", "peak_growth")}
    return {
        **sums,
        **highest,
        **(next((one for one in verified if not one["verified"]), verified[0]) if verified else {}),
        "ranks": runs,
        "version": runs[0]["version"],
        "disk_bytes": from_disk,
        "others_cpu_share": others,
        "cache_method": method,
        "residency": resident,
        "prewarmed_bytes": sum(one["bytes"] for one in warmed),
    }


def disk_bytes(folder: Path) -> int:
    """Bytes that the disk which holds a folder has delivered so far."""
    return int((disk(folder) / "stat").read_text().split()[2]) * _SECTOR


def run_worker(contender: Contender, data: DataSet, primer: DataSet, conditions: Conditions) -> dict[str, Any]:
    """One timed load by one contender in a fresh process, or in several at the same time.

    Raises WorkerError when it fails, CacheError when the page cache is not in the wanted state, ServerError when the
    server is gone.
    """
    if conditions.ranks > 1:
        return _run_ranks(contender, data, primer, conditions)
    try:
        return _run_worker(contender, data, primer, conditions)
    except (WorkerError, OSError) as error:
        if conditions.server and (reason := conditions.server.ended()):
            raise ServerError(reason) from error
        raise


def contender_named(name: str) -> Contender:
    """Look a contender up; raises ValueError with the known names."""
    try:
        return CONTENDERS[name]
    except KeyError:
        raise ValueError(f"unknown contender {name}; there are {', '.join(CONTENDERS)}") from None
