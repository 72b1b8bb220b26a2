"""What all commands have in common: errors on one line, the exit statuses that scripts rely on, help."""

from __future__ import annotations

import errno
import os
import pty
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import write_sparse
from commands import invoke, one_error_line, run
from weightstream.cli import main


@pytest.mark.parametrize("command", [["load", "--framework", "numpy"], ["inspect"]], ids=["load", "inspect"])
def test_a_missing_file_is_one_line_and_status_1(command: list[str], tmp_path: Path) -> None:
    result = run(*command, tmp_path / "nothing.safetensors")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nothing.safetensors" in one_error_line(result.stderr)


@pytest.mark.parametrize("command", [["load", "--framework", "numpy"], ["inspect"]], ids=["load", "inspect"])
def test_a_malformed_file_is_one_line_and_status_1(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "broken.safetensors"
    path.write_bytes(struct.pack("<Q", 2) + b"[]")
    result = run(*command, path, "--json")
    assert (result.returncode, result.stdout) == (1, "")
    assert "broken.safetensors" in one_error_line(result.stderr)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = run("inspect", tmp_path / "nothing.safetensors", "--debug")
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "NotFoundError" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["load"],
        ["nonsense"],
        ["load", "x", "--nonsense"],
        ["load", "x", "--concurrency", "0"],
        ["load", "x", "--order", "random"],
        ["inspect", "x", "--limit", "-1"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_a_setting_that_cannot_work_is_status_2(model: Path) -> None:
    result = run("load", model, "--framework", "numpy", "--memory-limit", "plenty")
    assert (result.returncode, result.stdout) == (2, "")
    assert "plenty" in one_error_line(result.stderr)


def test_a_defect_of_ours_is_not_dressed_up(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    def defect(*_: object, **__: object) -> None:
        raise AssertionError("a defect")

    monkeypatch.setattr(ws, "open", defect)
    result = invoke("inspect", model)
    assert isinstance(result.exception, AssertionError)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ws.StorageError("cannot open it", source="x", errno=errno.EMFILE), "ulimit -n"),
        (ws.TruncatedError("it ended early", source="x"), "interrupted copy"),
        (ws.SourceChangedError("it was written to", source="x"), "when the writer is done"),
        (MemoryError(), "--names"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_known_problems_come_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, model: Path, error: Exception, hint: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(ws, "stream", fail)
    result = invoke("load", model, "--framework", "numpy")
    assert result.exit_code == 1
    assert hint in result.stderr
    one_error_line(result.stderr)


def test_ctrl_c_during_a_load_ends_it_with_status_130(tmp_path: Path) -> None:
    # A sparse file of 256 GiB takes no space and minutes to read.
    path = tmp_path / "long.safetensors"
    write_sparse(path, {f"t{i}": ("U8", (64 << 20,)) for i in range(4096)})
    ours, theirs = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "weightstream",
        "load",
        str(path),
        "--framework",
        "numpy",
        "--memory-limit",
        "256MiB",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    os.close(theirs)
    screen = bytearray()
    started = threading.Event()

    def drain() -> None:
        while True:
            try:
                screen.extend(os.read(ours, 65536))
            except OSError:  # EIO: the other side was closed
                return
            if b"GB/s" in screen:
                started.set()

    reader = threading.Thread(target=drain)
    reader.start()
    try:
        assert started.wait(30), screen
        interrupted = time.monotonic()
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate(timeout=10)
        assert time.monotonic() - interrupted < 5
    finally:
        process.kill()
        process.wait()
        reader.join(timeout=10)
        os.close(ours)
    assert (process.returncode, stdout) == (130, b"")
    assert screen.rstrip().endswith(b"interrupted")
    assert b"Traceback" not in screen


@pytest.mark.parametrize("tensors", [1, 20_000], ids=["small output", "more than a pipe holds"])
def test_a_closed_pipe_ends_it_quietly(tmp_path: Path, tensors: int) -> None:
    path = tmp_path / "model.safetensors"
    write_sparse(path, {f"model.layers.{i}.weight": ("U8", (1,)) for i in range(tensors)})
    process = subprocess.Popen(
        [sys.executable, "-m", "weightstream", "inspect", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    stderr = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), stderr) == (141, b"")


# The program itself


def test_the_installed_command_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("weightstream")
    installed = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True)
    assert installed.stdout == run("--version").stdout == f"weightstream, version {ws.__version__}\n"


def test_help_imports_no_heavy_package() -> None:
    code = (
        "import sys\n"
        "from weightstream.cli import main\n"
        "for command in ([], ['load'], ['inspect']):\n"
        "    main([*command, '--help'], standalone_mode=False)\n"
        "print('heavy:', sorted({'torch', 'numpy', 'ml_dtypes', 'rich'} & set(sys.modules)))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage: " in result.stdout
    assert result.stdout.endswith("heavy: []\n")


@pytest.mark.parametrize("command", ["load", "inspect"])
def test_the_reference_lists_every_option(command: str) -> None:
    reference = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
    section = reference.read_text().split(f"## weightstream {command}\n")[1].split("\n## ")[0]
    options = [name for parameter in main.commands[command].params for name in parameter.opts if name.startswith("-")]
    assert options
    assert [name for name in options if f"`{name}" not in section] == []
