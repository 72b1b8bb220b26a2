"""What the numbers were measured on: the machine, the commit, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = Path(os.environ.get("BENCHMARKS_ENVIRONMENT", sys.prefix))
"""Where setup.sh and gpu.sh put what no package has."""
BUILT_COMMIT = "weightstream-commit"
"""Written into the environment by setup.sh."""


def _first(path: str, prefix: str) -> str:
    for line in Path(path).read_text().splitlines():
        if line.startswith(prefix):
            return line.partition(":")[2].strip()
    return ""


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def filesystem(folder: Path) -> tuple[str, str]:
    """Type and options of the filesystem that holds a folder: the mount with the longest path above it."""
    folder = folder.resolve()
    best = (-1, "", "")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, kind, options = line.split()[:4]
        if folder.is_relative_to(where) and len(where) >= best[0]:
            best = (len(where), kind, options)
    return best[1], best[2]


def disk(folder: Path) -> Path:
    """What the kernel says of the disk that holds a folder, in /sys."""
    device = folder.stat().st_dev
    block = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    return block.parent if (block / "partition").exists() else block


def _disk(folder: Path) -> dict[str, str]:
    block = disk(folder)
    scheduler = _text(block / "queue/scheduler")
    return {
        "name": block.name,
        "model": _text(block / "device/model"),
        "scheduler": scheduler.partition("[")[2].partition("]")[0] or scheduler,
        "read_ahead_kb": _text(block / "queue/read_ahead_kb"),
        "max_request_kb": _text(block / "queue/max_sectors_kb"),
    }


def describe(data: Path) -> dict[str, Any]:
    """The machine, with the filesystem and the disk that hold `data`. No names of hosts or users."""
    kind, options = filesystem(data)
    hypervisor = "hypervisor" in _first("/proc/cpuinfo", "flags").split()
    return {
        "cpu": _first("/proc/cpuinfo", "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": int(_first("/proc/meminfo", "MemTotal").split()[0]) << 10,
        "virtual": hypervisor,
        "kernel": platform.release(),
        "transparent_huge_pages": _text("/sys/kernel/mm/transparent_hugepage/enabled")
        .partition("[")[2]
        .partition("]")[0],
        "filesystem": kind,
        "mount_options": options,
        "disk": _disk(data),
        "python": platform.python_version(),
    }


def commit() -> dict[str, Any]:
    """The commit that is checked out, whether files differ from it (results aside), and the commit that was built."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    built = _text(ENVIRONMENT / BUILT_COMMIT)
    try:
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--", ".", ":!benchmarks/results")),
            "built": built,
        }
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "", "dirty": True, "built": built}
