"""weightstream.runai: what list_safetensors and FileStreamer.list_files find in local folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from weightstream.runai import FileStreamer, list_safetensors, pull_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("m-10.safetensors", "m-9.safetensors", "config.json", "sub/m-1.safetensors", "a.safetensors.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / ".hidden.safetensors").write_bytes(b"")
    (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nothing")
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "m-9.safetensors")
    return tmp_path


def test_safetensors_directly_in_a_folder(folder: Path) -> None:
    expected = [str(folder / f"{name}.safetensors") for name in ("link", "m-9", "m-10")]
    assert list_safetensors(str(folder)) == expected
    assert list_safetensors(f"{folder}/") == [
        path.replace(str(folder), f"{folder}/", 1).replace("//", "/") for path in expected
    ]
    assert list_safetensors(str(folder / "missing")) == []
    assert list_safetensors(str(folder / "config.json")) == []


def test_files_of_a_folder(folder: Path) -> None:
    def names(**settings: Any) -> set[str]:
        return {os.path.relpath(path, folder) for path, _ in FileStreamer().list_files(str(folder), **settings)}

    everything = {
        "m-10.safetensors",
        "m-9.safetensors",
        "config.json",
        "a.safetensors.txt",
        "link.safetensors",
        ".hidden.safetensors",
    }
    assert names() == everything | {"sub/m-1.safetensors"}
    assert names(is_recursive=False) == everything
    assert names(allow_patterns=["*.json", "*.txt"]) == {"config.json", "a.safetensors.txt"}
    assert names(ignore_patterns=["*.safetensors"]) == {"config.json", "a.safetensors.txt"}
    assert names(allow_patterns=[], ignore_patterns=[]) == names()
    sizes = dict(FileStreamer().list_files(str(folder)))
    assert sizes[str(folder / "config.json")] == len("config.json")


def test_a_folder_without_files_and_none(tmp_path: Path) -> None:
    assert FileStreamer().list_files(str(tmp_path)) == []
    with pytest.raises(ValueError, match="no such file") as raised:
        FileStreamer().list_files(str(tmp_path / "missing"))
    assert isinstance(raised.value, ws.NotFoundError)


def test_a_local_folder_is_not_pulled(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotImplementedError, match="is on this machine already"):
        pull_files(str(folder), str(tmp_path / "to"))
