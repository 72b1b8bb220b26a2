"""`weightstream inspect`: what it lists, and that nothing in a file can drive the terminal."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_sparse
from commands import invoke, run


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
    write_sparse(tmp_path / "empty.safetensors", {})
    result = invoke("inspect", tmp_path / "empty.safetensors")
    assert (result.exit_code, result.stdout) == (0, "0 tensors, 0 B in 1 file\n")


def test_a_tensor_name_cannot_drive_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    write_sparse(path, {"\x1b]0;owned\x07\n\u202ename": ("U8", (1,))})
    result = run("inspect", path)
    assert result.returncode == 0, result.stderr
    assert r"\x1b]0;owned\x07\n\u202ename" in result.stdout
    assert "\x1b" not in result.stdout


def test_a_terminal_that_cannot_show_a_name_gets_its_escape(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_sparse(path, {"大.weight": ("U8", (1,))})
    result = run("inspect", path, env={**os.environ, "PYTHONIOENCODING": "latin-1"})
    assert result.returncode == 0, result.stderr
    assert r"\u5927.weight" in result.stdout
