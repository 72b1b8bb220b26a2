"""Looking at this process, and running others."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent


def core_threads() -> list[str]:
    """The names of the core's threads that live."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        try:
            names.append((task / "comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return [name for name in names if name.startswith("ws-")]


def descriptors() -> list[str]:
    """What the open descriptors of this process point to."""
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except FileNotFoundError:  # the one that lists the directory
            continue
    return sorted(link for link in links if not link.startswith("/proc/"))


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    """Waits for what has to come true; fails when it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.002)


def command(program: str, *arguments: Any) -> list[str]:
    """The command that runs a Python program; it finds the modules beside this one, and warnings are errors."""
    begin = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    return [sys.executable, "-W", "error", "-c", begin + textwrap.dedent(program), *map(str, arguments)]


def environment(preload: Path | None = None, **variables: str) -> dict[str, str]:
    """The environment of such a program: this one's, without settings of the library's."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WEIGHTSTREAM_")}
    if preload is not None:
        clean["LD_PRELOAD"] = str(preload)
    return {**clean, **variables}


def run(program: str, *arguments: Any, preload: Path | None = None, timeout: float = 60, **variables: str) -> str:
    """Runs a Python program to its end, which has to be a good and quiet one, and returns what it printed."""
    done = subprocess.run(
        command(program, *arguments),
        env=environment(preload, **variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert (done.returncode, done.stderr) == (0, ""), f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def on_a_terminal(command: list[str], **env: str) -> tuple[int, str, bytes]:
    """Runs a command with a terminal as its standard error: its status, the screen's text and its standard output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **env},
    )
    os.close(theirs)
    chunks = []

    def drain() -> None:
        while True:
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # EIO: the other side was closed
                return
            if not chunk:
                return
            chunks.append(chunk)

    reader = threading.Thread(target=drain)
    reader.start()
    stdout, _ = process.communicate(timeout=60)
    reader.join(timeout=60)
    os.close(ours)
    screen = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", b"".join(chunks).decode())
    return process.returncode, screen, stdout
