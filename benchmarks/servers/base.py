"""What a server is for the harness: a context manager that knows its URLs and what it costs."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO
from urllib.parse import quote

LOOPBACK = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 5.0
_CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_PR_SET_PDEATHSIG = 1
_TICK = os.sysconf("SC_CLK_TCK")

_libc = ctypes.CDLL(None, use_errno=True)


class ServerError(RuntimeError):
    """A server cannot run here, or did not start."""


def _die_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """One server process (and its children) from `__enter__` to `__exit__`, on two ports of the loopback device.

    The second port is for the primer, so that whatever a client remembers of a host or keeps open to it does not help
    in the timed part. An object's URL is `scheme://127.0.0.1:port/folder/file`; to clients of S3 that is a path-style
    bucket and key.
    """

    scheme = "http"
    ca_bundle: Path | None = None
    """The private CA that signed the server's certificate."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.folder = Path()
        """For its configuration, from start to end."""
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None
        self._ports = (0, 0)

    def _start(self) -> tuple[int, int]:
        """Start the process by `_spawn`, and return the two ports."""
        raise NotImplementedError

    def describe(self) -> str:
        """Its name, version and settings, for the results."""
        raise NotImplementedError

    def _spawn(self, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        # A session of its own: Ctrl-C ends the rounds, not the server under a round that still runs.
        self._log = (self.folder / "log").open("w+")
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=self.folder,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # the harness has no threads, so this is safe
        )
        return self._process

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        for port in self._ports:
            while True:
                if reason := self.ended():
                    raise ServerError(reason)
                if time.monotonic() > deadline:
                    raise ServerError(f"the server does not answer: {self._last_words()}")
                try:
                    socket.create_connection((LOOPBACK, port), timeout=1).close()
                    break
                except OSError:
                    time.sleep(0.02)

    def _last_words(self) -> str:
        assert self._log is not None
        self._log.seek(0)
        return self._log.read().strip()[-1000:] or "it said nothing"

    def ended(self) -> str | None:
        """How the server came to its end before it was asked to, if it did."""
        assert self._process is not None
        status = self._process.poll()
        return None if status is None else f"the server ended with status {status}: {self._last_words()}"

    def url(self, path: Path, *, primer: bool = False) -> str:
        """The URL of a file below the root; with `primer`, on the second port."""
        location = quote(path.resolve().relative_to(self.root).as_posix())
        return f"{self.scheme}://{LOOPBACK}:{self._ports[1 if primer else 0]}/{location}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables of its clients: credentials that every client of S3 wants, and no detours."""
        variables = {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "NO_PROXY": LOOPBACK,
            "no_proxy": LOOPBACK,
        }
        if self.ca_bundle:
            variables |= dict.fromkeys(_CA_VARIABLES, str(self.ca_bundle))
        return variables

    def cpu_seconds(self) -> float:
        """User and system seconds of the server's processes until now."""
        assert self._process is not None
        return sum(_cpu_seconds(pid) for pid in _with_children(self._process.pid))

    def __enter__(self) -> Server:
        self._temporary = tempfile.TemporaryDirectory(prefix="benchmark-server-")
        self.folder = Path(self._temporary.name)
        try:
            self._ports = self._start()
            self._wait_until_it_answers()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._process:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            if self._process.stdout:
                self._process.stdout.close()
        if self._log:
            self._log.close()
        if self._temporary:
            self._temporary.cleanup()


def _with_children(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(child) for child in children)]


def _cpu_seconds(pid: int) -> float:
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICK


def free_ports() -> tuple[int, int]:
    """Two ports that nobody listens on now."""
    with socket.socket() as first, socket.socket() as second:
        first.bind((LOOPBACK, 0))
        second.bind((LOOPBACK, 0))
        return first.getsockname()[1], second.getsockname()[1]
