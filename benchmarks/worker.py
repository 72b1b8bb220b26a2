"""The worker: one process, one contender, one timed load. Started by measure.py, never by hand.

Parent and worker exchange one JSON object a line on the worker's standard input and output:

    parent                          worker
    {job}                       ->
                                <-  {"say": "ready", ...}       imported, and the primer loaded once
    {"do": "prewarm", bytes}    ->
                                <-  {"say": "prewarmed", ...}   that much memory touched and freed
    {"do": "go"}                ->
                                <-  {"say": "done", ...}        the timed part, measured
    {"do": "verify"}            ->                              (only when the job asks for it)
                                <-  {"say": "verified", ...}    every tensor compared with its checksum

Anything that goes wrong is told as {"say": "failed", "error": ...}. What libraries print goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
import traceback
import zlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, TextIO

import numpy as np

from benchmarks import devices, memory
from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.base import Loader
from benchmarks.devices import Device

_PAGE = 4096


@dataclass(frozen=True)
class Job:
    """What one worker is to do."""

    contender: str
    files: list[str]
    """Paths or URLs."""
    primer: list[str]
    keep: bool
    """True: the consumer holds every tensor until the end. False: it drops each before it takes the next."""
    checksums: str = ""
    """The manifest with the checksums, for the verification."""
    device: str = "cpu"
    convert: bool = False
    """Only convert the files to the contender's own format, and answer with their names."""


@dataclass
class Sample:
    """The state of the process at one moment."""

    wall: float
    user: float
    system: float
    thread: float
    minor_faults: int
    major_faults: int
    input_blocks: int

    @classmethod
    def now(cls) -> Sample:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return cls(
            wall=time.perf_counter(),
            user=usage.ru_utime,
            system=usage.ru_stime,
            thread=time.thread_time(),
            minor_faults=usage.ru_minflt,
            major_faults=usage.ru_majflt,
            input_blocks=usage.ru_inblock,
        )

    def until(self, end: Sample) -> dict[str, float]:
        before = asdict(self)
        return {name: value - before[name] for name, value in asdict(end).items()}


class _AllMemory:
    """The whole address space as one array: the cheapest way from Python to one byte of each page of a tensor.

    A chain of torch and numpy calls would cost a mapped loader 5 us a tensor that a real consumer does not pay.
    """

    _FIRST = 4096
    __array_interface__: ClassVar[dict[str, Any]] = {
        "version": 3,
        "typestr": "|u1",
        "data": (_FIRST, True),
        "shape": ((1 << 47) - 2 * _FIRST,),
    }

    def __init__(self) -> None:
        self._bytes = np.asarray(self)
        # The code of this, too, is read from the disk when it first runs: not behind the reads of a load.
        self.touch(np.zeros(2 * _PAGE, np.uint8))

    def touch(self, tensor: Any) -> None:
        """Read one byte of each page of a tensor of torch or numpy, so that the page is really there."""
        address = tensor.ctypes.data if isinstance(tensor, np.ndarray) else tensor.data_ptr()
        start = address - self._FIRST
        self._bytes[start : start + tensor.nbytes : _PAGE].tobytes()


def _flat(tensor: Any) -> Any:
    """The bytes of a torch tensor as a flat numpy array, without a copy if it is on the CPU."""
    import torch

    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()


def _checksum(item: tuple[str, Any]) -> tuple[str, int]:
    return item[0], zlib.crc32(_flat(item[1]))


class _Run:
    """The timed part and what is left of it."""

    def __init__(self, loader: Loader, device: Device, job: Job) -> None:
        self._loader = loader
        self._device = device
        self._job = job
        self._held: dict[str, Any] = {}

    def measure(self) -> dict[str, Any]:
        gc.collect()
        memory.reset_peak()
        before = memory.of_process()
        touch = _AllMemory().touch if self._loader.touches_needed and self._job.device == "cpu" else None
        self._device.begin()
        first = 0.0
        count = nbytes = 0
        start = Sample.now()
        for name, tensor in self._loader.load(self._job.files):
            if touch:
                touch(tensor)
            if not count:
                self._device.first_is_there()
                first = time.perf_counter() - start.wall
            count += 1
            nbytes += tensor.nbytes
            if self._job.keep:
                self._held[name] = tensor
            del tensor
        self._device.all_are_there()
        spent = start.until(Sample.now())
        after = memory.of_process()
        return {
            "seconds": spent.pop("wall"),
            "cpu_user": spent.pop("user"),
            "cpu_system": spent.pop("system"),
            "consumer_cpu": spent.pop("thread"),
            **spent,
            "bytes": nbytes,
            "tensors": count,
            "first_tensor": first,
            "peak_growth": after["peak"] - before["resident"],
            "anonymous_growth": after["anonymous"] - before["anonymous"],
            **self._device.measured(),
            "pinned_bytes": self._loader.pinned_bytes(),
            "version": self._loader.version(),
            "stats": self._loader.stats(),
        }

    def verify(self) -> dict[str, Any]:
        """Compare what is held, or else a second load, with the checksums."""
        expected = json.loads(Path(self._job.checksums).read_text())["checksums"]
        with ThreadPoolExecutor() as threads:
            found: Iterable[tuple[str, int]] = (
                threads.map(_checksum, self._held.items())
                if self._job.keep
                else map(_checksum, self._loader.load(self._job.files))
            )
            wrong = [name for name, checksum in found if checksum != expected.pop(name, None)]
        return {"verified": not wrong and not expected, "wrong": wrong[:8], "missing": list(expected)[:8]}

    def close(self) -> None:
        self._held.clear()
        self._loader.close()


class _Line:
    """The line to the parent. Standard output itself is turned over to standard error, for what libraries print."""

    def __init__(self) -> None:
        self._out: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def say(self, what: str, **fields: Any) -> None:
        self._out.write(json.dumps({"say": what, **fields}, default=str) + "\n")
        self._out.flush()

    def hear(self) -> dict[str, Any] | None:
        line = sys.stdin.readline()
        return json.loads(line) if line else None


def _serve(line: _Line) -> None:
    heard = line.hear()
    if heard is None:
        return
    job = Job(**heard)
    loader = CONTENDERS[job.contender].loader(job.device)
    if job.convert:
        line.say("converted", files=[str(path) for path in loader.converted([Path(name) for name in job.files])])
        return
    device = devices.device(job.device)
    for _, tensor in loader.load(job.primer):
        _flat(tensor).sum()
        del tensor
    loader.close()
    loader.prepare(job.files)
    line.say("ready")
    run = _Run(loader, device, job)
    while (heard := line.hear()) is not None:
        match heard["do"]:
            case "prewarm":
                start = time.perf_counter()
                count = memory.prewarm(heard["bytes"])
                line.say("prewarmed", bytes=count, seconds=time.perf_counter() - start)
            case "go":
                line.say("done", **run.measure())
            case "verify":
                line.say("verified", **run.verify())
    run.close()


def main() -> None:
    """Serve one job."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's: it ends its workers
    line = _Line()
    try:
        _serve(line)
    except Exception as error:
        traceback.print_exc()
        line.say("failed", error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
