"""Servers that are programs: found, started on free ports of the loopback, and stopped for sure."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from servers.ports import bind_to_new_port

SERVERS = Path(sys.prefix) / "servers"  # where scripts/test-servers.sh puts what is no Python package
_LIBC = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def missing(what: str) -> NoReturn:
    """A server cannot be had: its tests are skipped, or fail in CI, where it has to be there."""
    text = f"{what} is not installed; run scripts/test-servers.sh {sys.executable}"
    if os.environ.get("CI"):
        pytest.fail(text, pytrace=False)
    pytest.skip(text)


def find_program(name: str, *places: Path) -> Path:
    """The path of a program: in one of these folders, or on the PATH."""
    path = os.pathsep.join([*map(str, places), os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=path)
    return Path(found) if found else missing(name)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [bind_to_new_port() for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def answers(port: int) -> bool:
    """Whether someone listens on a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(
    command: Sequence[object],
    folder: Path,
    ready: Callable[[], bool],
    *,
    stop: signal.Signals = signal.SIGTERM,
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Runs a server in the block; returns when it is ready. Its temporary files and its log lie in `folder`."""
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the tests; they stop their servers when they end
            preexec_fn=_die_with_the_tests,
        )
    try:
        deadline = time.monotonic() + 60
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-4000:]}", pytrace=False)
            time.sleep(0.02)
        yield
    finally:
        process.send_signal(stop)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _die_with_the_tests() -> None:
    # When a time limit ends the tests at once, nobody is left to stop anything.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
