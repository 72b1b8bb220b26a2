"""The disk's own limit: fio reads the very same files with O_DIRECT, and the best of its settings counts.

fio reuses a few buffers and keeps nothing, so that no loader which delivers every byte in memory of its own can do
with less CPU time.
"""

from __future__ import annotations

import json
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


SETTINGS = tuple(
    Setting(engine, block, depth)
    for engine in ("io_uring", "libaio")
    for block, depth in (("512k", 64), ("1m", 32), ("4m", 16), ("4m", 64))
)


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
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
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


class Limit:
    """Tries every setting in its first run; later runs repeat the best one."""

    def __init__(self) -> None:
        self._best: Setting | None = None
        self._version = version()
        self.tried: list[dict[str, Any]] = []

    def run(self, files: Sequence[Path]) -> dict[str, Any]:
        if self._best is None:
            self.tried = [read(files, setting) for setting in SETTINGS]
            self._best = max(
                zip(self.tried, SETTINGS, strict=True), key=lambda pair: pair[0]["bytes"] / pair[0]["seconds"]
            )[1]
        return read(files, self._best) | {"version": self._version}
