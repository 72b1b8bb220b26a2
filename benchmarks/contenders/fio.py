"""The disk's own limit: fio reads the very same files with O_DIRECT, and the best of its settings counts.

fio reuses a few registered buffers and keeps nothing, so that no loader which delivers every byte in memory of its
own can do with less CPU time.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.caches import make_cold


@dataclass(frozen=True)
class Setting:
    """How fio reads."""

    engine: str
    block: str
    depth: int

    def __str__(self) -> str:
        return f"{self.engine} {self.block} x {self.depth}"


SETTINGS = (
    Setting("io_uring", "512k", 64),
    Setting("io_uring", "1m", 32),
    Setting("io_uring", "1m", 128),
    Setting("io_uring", "4m", 16),
    Setting("io_uring", "4m", 64),
    Setting("libaio", "512k", 64),
    Setting("libaio", "1m", 32),
    Setting("libaio", "4m", 16),
)
REPEATED = 3
"""How many of the best settings each later run tries again."""

_HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""fio's buffers in huge pages: fewer, longer segments for the disk."""


def read(files: Sequence[Path], setting: Setting) -> dict[str, Any]:
    """Read the files once, but for the part of the last block that fio leaves out at the end of each file.

    Raises CalledProcessError when fio cannot.
    """
    make_cold(files)
    command = [
        "fio",
        "--name=read",
        "--readonly",
        "--rw=read",
        "--direct=1",
        "--invalidate=0",
        f"--ioengine={setting.engine}",
        f"--bs={setting.block}",
        f"--iodepth={setting.depth}",
        "--filename=" + ":".join(str(path.resolve()).replace(":", r"\:") for path in files),
        "--file_service_type=sequential",
        "--output-format=json",
    ]
    if setting.engine == "io_uring":
        command.append("--fixedbufs")
    environment = os.environ | _HUGE_PAGES
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    job = json.loads(output[output.index("{") :])["jobs"][0]
    seconds = job["read"]["runtime"] / 1e3
    return {
        "seconds": seconds,
        "bytes": job["read"]["io_bytes"],
        "cpu_user": seconds * job["usr_cpu"] / 100,
        "cpu_system": seconds * job["sys_cpu"] / 100,
        "setting": str(setting),
    }


def version() -> str:
    return subprocess.run(["fio", "--version"], check=True, capture_output=True, text=True).stdout.strip()


def _rate(run: dict[str, Any]) -> float:
    return float(run["bytes"] / run["seconds"])


class Limit:
    """Tries every setting once, then the best ones again in each run; the fastest of a run counts."""

    def __init__(self) -> None:
        self._best: list[Setting] = []
        self._version = version()
        self.tried: list[dict[str, Any]] = []

    def run(self, files: Sequence[Path]) -> dict[str, Any]:
        if not self._best:
            self.tried = [read(files, setting) for setting in SETTINGS]
            ranked = sorted(zip(self.tried, SETTINGS, strict=True), key=lambda pair: -_rate(pair[0]))
            self._best = [setting for _, setting in ranked[:REPEATED]]
        return max((read(files, setting) for setting in self._best), key=_rate) | {"version": self._version}
