"""`weightstream load`: what it prints where, and what its options do."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from commands import invoke, one_error_line, run
from processes import on_a_terminal


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


def test_load_names_the_option_where_torch_is_missing(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "weightstream.frameworks.torch", raising=False)
    result = invoke("load", model)
    assert result.exit_code == 2
    assert "which is not installed; --framework numpy works without it" in result.stderr


def test_load_shows_no_progress_without_a_terminal(model: Path) -> None:
    result = run("load", model, "--framework", "numpy")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("variable", "option", "shown"),
    [
        (None, None, True),
        ("", None, True),
        ("on", None, True),
        ("0", None, False),
        ("off", None, False),
        ("on", "--no-progress", False),
        ("on", "--quiet", False),
    ],
)
def test_load_shows_progress_on_a_terminal_unless_told_not_to(
    model: Path, variable: str | None, option: str | None, shown: bool
) -> None:
    command = [sys.executable, "-m", "weightstream", "load", str(model), "--framework", "numpy"]
    env = {} if variable is None else {"WEIGHTSTREAM_PROGRESS": variable}
    status, screen, stdout = on_a_terminal(command + ([] if option is None else [option]), **env)
    assert status == 0, screen
    assert ("4/4 tensors" in screen) is shown
    if not shown:
        assert screen == ""
    assert (stdout == b"") is (option == "--quiet")


def test_load_refuses_a_variable_for_progress_that_says_neither(model: Path) -> None:
    result = run("load", model, "--framework", "numpy", env={**os.environ, "WEIGHTSTREAM_PROGRESS": "perhaps"})
    assert (result.returncode, result.stdout) == (2, "")
    assert one_error_line(result.stderr) == "WEIGHTSTREAM_PROGRESS='perhaps' is neither true nor false"
