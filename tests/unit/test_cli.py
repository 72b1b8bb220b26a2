"""The command line: what it prints where, and the exit statuses that scripts rely on."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from safetensors.numpy import save_file

import weightstream as ws
from weightstream.cli import main
from weightstream.cli._format import bytes_text, count_text, printable, seconds_text, table


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    tensors = {
        "a.weight": np.arange(1000, dtype=np.float32).reshape(10, 100),
        "a.bias": np.arange(10, dtype=np.float32),
        "b.weight": np.arange(3000, dtype=np.int64),
        "b.bias": np.zeros((), dtype=np.float16),
    }
    save_file(tensors, path, metadata={"format": "pt", "license": "none"})
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    folder = tmp_path / "sharded"
    folder.mkdir()
    save_file({"x": np.ones(4, np.float32)}, folder / "model-00001-of-00002.safetensors")
    save_file({"y": np.ones((2, 3), np.int8)}, folder / "model-00002-of-00002.safetensors")
    index = {
        "metadata": {},
        "weight_map": {"x": "model-00001-of-00002.safetensors", "y": "model-00002-of-00002.safetensors"},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_raw(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """Write a file of (dtype, shape, bytes) tensors that are all zero, as a hole that takes no disk space."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "weightstream", *map(str, arguments)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, **options)


def one_error_line(stderr: str) -> str:
    """The error message, after a check that nothing but it and at most one hint was printed."""
    first, *rest = stderr.splitlines()
    assert first.startswith("error: ")
    assert [line for line in rest if not line.startswith("hint: ")] == []
    assert len(rest) <= 1
    return first.removeprefix("error: ")


# weightstream load


def test_load_says_how_much_and_how_fast(model: Path) -> None:
    result = invoke("load", model, "--framework", "numpy")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("4 tensors, 28.0 kB in ")
    assert " GB/s" in result.stdout
    assert "first tensor after " in result.stdout
    assert "waited for storage " in result.stdout
    assert f"{model}: " in result.stdout  # the reason for the reader
    assert result.stderr == ""


def test_load_json_is_one_object_and_nothing_else(model: Path) -> None:
    result = run("load", model, "--framework", "numpy", "--json")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert report["locations"] == [str(model)]
    assert report["tensors"] == 4
    assert report["bytes"] == 4000 + 40 + 24000 + 2
    assert report["bytes_total"] == report["bytes"]
    assert sum(report["readers"].values()) == report["bytes_read"]
    assert list(report["reasons"]) == [str(model)]
    assert report["gigabytes_per_second"] > 0


def test_load_does_not_count_the_import_of_the_framework(model: Path) -> None:
    result = run("load", model, "--json")
    assert result.returncode == 0, result.stderr
    # Importing torch takes longer than this on any machine, reading 28 kB does not.
    assert json.loads(result.stdout)["first_tensor_seconds"] < 0.5


def test_load_quiet_prints_nothing(model: Path) -> None:
    result = invoke("load", model, "--framework", "numpy", "--quiet")
    assert (result.exit_code, result.output) == (0, "")


@pytest.mark.parametrize("keep", [[], ["--keep"]])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_load_takes_its_options_through(model: Path, keep: list[str], order: str) -> None:
    options = ["--framework", "numpy", "--order", order, "--memory-limit", "64MiB", "--concurrency", "2"]
    result = invoke("load", model, *options, "--backend", "pread", "--device", "cpu", "--json", *keep)
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["readers"]) == {"pread"}


def test_load_takes_only_the_named_tensors(model: Path) -> None:
    result = invoke("load", model, "--framework", "numpy", "--names", "a.*", "--names", "*.bias", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["tensors"], report["bytes"]) == (3, 4042)


def test_load_says_when_no_name_matches(model: Path) -> None:
    result = run("load", model, "--framework", "numpy", "--names", "A.*")
    assert (result.returncode, result.stdout) == (1, "")
    assert one_error_line(result.stderr) == "no tensor matches A.*"


def test_load_takes_several_locations_and_a_directory(model: Path, sharded: Path) -> None:
    result = invoke("load", *sorted(sharded.glob("*.safetensors")), "--framework", "numpy", "--json")
    assert json.loads(result.stdout)["tensors"] == 2
    result = invoke("load", sharded, "--framework", "numpy", "--json")
    assert json.loads(result.stdout)["tensors"] == 2


def test_load_falls_back_to_the_environment(model: Path) -> None:
    result = run(
        "load", model, "--json", env={**os.environ, "WEIGHTSTREAM_FRAMEWORK": "numpy", "WEIGHTSTREAM_BACKEND": "pread"}
    )
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout)["readers"]) == {"pread"}


def test_load_shows_no_progress_without_a_terminal(model: Path) -> None:
    result = run("load", model, "--framework", "numpy")
    assert (result.returncode, result.stderr) == (0, "")


# weightstream inspect


def test_inspect_lists_tensors_totals_and_metadata(model: Path) -> None:
    result = invoke("inspect", model)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["name", "dtype", "shape", "size"]
    assert ["a.weight", "F32", "[10,", "100]", "4.00", "kB"] in lines
    assert ["b.bias", "F16", "[]", "2", "B"] in lines
    assert "4 tensors, 28.0 kB in 1 file" in result.stdout
    assert "  F32: 2 tensors, 4.04 kB" in result.stdout
    assert "  format: pt" in result.stdout


def test_inspect_names_the_shards_of_a_sharded_checkpoint(sharded: Path) -> None:
    result = invoke("inspect", sharded)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["y", "I8", "[2,", "3]", "6", "B", "model-00002-of-00002.safetensors"] in lines
    assert "2 tensors, 22 B in 2 files" in result.stdout


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ("name", ["a.bias", "a.weight", "b.bias", "b.weight"]),
        ("size", ["b.weight", "a.weight", "a.bias", "b.bias"]),
        ("file", ["b.weight", "a.bias", "a.weight", "b.bias"]),
    ],
)
def test_inspect_sorts(model: Path, order: str, names: list[str]) -> None:
    result = invoke("inspect", model, "--sort", order, "--json")
    assert [tensor["name"] for tensor in json.loads(result.stdout)["tensors"]] == names


def test_inspect_limit_shortens_the_list_but_not_the_totals(model: Path) -> None:
    result = invoke("inspect", model, "--sort", "size", "--limit", "1")
    assert result.stdout.splitlines()[1].startswith("b.weight ")
    assert "... and 3 more" in result.stdout
    assert "4 tensors, 28.0 kB" in result.stdout
    assert "a.weight" not in result.stdout


def test_inspect_json_is_one_object_and_nothing_else(model: Path) -> None:
    result = run("inspect", model, "--json", "--names", "a.*")
    assert (result.returncode, result.stderr) == (0, "")
    report = json.loads(result.stdout)
    assert (report["tensor_count"], report["nbytes"]) == (2, 4040)
    assert report["dtypes"] == {"F32": {"tensors": 2, "nbytes": 4040}}
    assert report["metadata"] == {"format": "pt", "license": "none"}
    (source,) = report["sources"]
    assert (source["path"], source["size"], source["tensors"]) == (str(model), model.stat().st_size, 4)
    weight = next(t for t in report["tensors"] if t["name"] == "a.weight")
    begin, end = weight["range"]
    assert (weight["dtype"], weight["shape"], weight["nbytes"], end - begin) == ("F32", [10, 100], 4000, 4000)
    assert np.frombuffer(model.read_bytes()[begin:end], np.float32).tolist() == list(range(1000))


def test_inspect_of_an_empty_checkpoint(tmp_path: Path) -> None:
    write_raw(tmp_path / "empty.safetensors", {})
    result = invoke("inspect", tmp_path / "empty.safetensors")
    assert (result.exit_code, result.stdout) == (0, "0 tensors, 0 B in 1 file\n")


def test_a_tensor_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    write_raw(path, {"\x1b]0;owned\x07\n\u202ename": ("U8", [1], 1)})
    result = run("inspect", path)
    assert result.returncode == 0, result.stderr
    assert r"\x1b]0;owned\x07\n\u202ename" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_terminal_that_cannot_show_a_name_gets_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_raw(path, {"大.weight": ("U8", [1], 1)})
    result = run("inspect", path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert result.returncode == 0, result.stderr
    assert r"\u5927.weight" in result.stdout


# Errors and exit statuses


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
    size = 64 << 20
    write_raw(path, {f"t{i}": ("U8", [size], size) for i in range(4096)})
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
    write_raw(path, {f"model.layers.{i}.weight": ("U8", [1], 1) for i in range(tensors)})
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


# Formatting


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9995, "10.0 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (90_868_376, "90.9 MB"),
        (16_060_522_240, "16.1 GB"),
        (7 * 10**18, "7000 PB"),
    ],
)
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 us"),
        (0.0000423, "42 us"),
        (0.00312, "3.12 ms"),
        (0.9996, "1.00 s"),
        (12.345, "12.35 s"),
        (59.999, "1 min 0 s"),
        (75.4, "1 min 15 s"),
    ],
)
def test_seconds_text(seconds: float, text: str) -> None:
    assert seconds_text(seconds) == text


def test_count_text() -> None:
    assert [count_text(n, "tensor") for n in (0, 1, 2, 40_000)] == [
        "0 tensors",
        "1 tensor",
        "2 tensors",
        "40,000 tensors",
    ]


def test_printable_keeps_what_is_printable() -> None:
    assert printable("größe 大") == "größe 大"
    assert printable("a\tb\x00") == r"a\tb\x00"


def test_table_aligns() -> None:
    assert list(table(["name", "size"], [["a", "10 B"], ["bcdef", "1 B"]], right=[1])) == [
        "name   size",
        "a      10 B",
        "bcdef   1 B",
    ]
