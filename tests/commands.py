"""Running the `weightstream` command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from weightstream.cli import main


def invoke(*arguments: str | Path) -> Result:
    """Runs it in this process."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs it as a process of its own, as a shell would."""
    command = [sys.executable, "-m", "weightstream", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options)


def one_error_line(stderr: str) -> str:
    """The error message, after a check that nothing but it and at most one hint was printed."""
    first, *rest = stderr.splitlines()
    assert first.startswith("error: ")
    assert [line for line in rest if not line.startswith("hint: ")] == []
    assert len(rest) <= 1
    return first.removeprefix("error: ")
