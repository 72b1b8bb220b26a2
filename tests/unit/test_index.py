"""Index files: what is refused, by which message, and that nothing is opened by then."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import assert_same, blocks, write_file
from weightstream.sources import index as index_module

pytestmark = pytest.mark.usefixtures("no_leaks")
NAME = "model.safetensors.index.json"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the core is asked to open."""
    seen: list[Any] = []

    class Core:
        @staticmethod
        def open(paths: Any, weight_map: Any) -> Any:
            seen.append(paths)
            raise AssertionError("nothing must be opened")

    monkeypatch.setattr("weightstream._checkpoint.CoreCheckpoint", Core)
    return seen


@pytest.mark.parametrize(
    ("shard", "problem"),
    [
        ("/etc/passwd", "is absolute"),
        ("//etc/passwd", "is absolute"),
        ("..", "is not a file name"),
        (".", "is not a file name"),
        ("", "is not a file name"),
        ("../secret.safetensors", "has '..'"),
        ("a/../../secret.safetensors", "has '..'"),
        ("a/..", "has '..'"),
        ("..\\secret.safetensors", "has a backslash"),
        ("C:\\secret.safetensors", "has a backslash"),
        ("a\0.safetensors", "has a NUL"),
        ("\ud800.safetensors", "lone surrogate"),
        ("file:///etc/passwd", "has a scheme"),
        ("http://169.254.169.254/latest", "has a scheme"),
        ("s3:bucket", "has a scheme"),
        (7, "is not a file name"),
        (None, "is not a file name"),
        (["a.safetensors"], "is not a file name"),
        ({"a": "b"}, "is not a file name"),
    ],
)
def test_a_shard_cannot_leave_the_folder(tmp_path: Path, shard: Any, problem: str, opened: list[Any]) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write_file(tmp_path / "secret.safetensors", blocks(1, 10))
    write_file(folder / "a.safetensors", {"good": blocks(1, 10)["t000"]})
    (folder / NAME).write_text(json.dumps({"weight_map": {"good": "a.safetensors", "t000": shard}}))
    for location in (folder, folder / NAME):
        with pytest.raises(ws.FormatError, match="tensor 't000'") as caught:
            ws.open(location)
        assert problem in str(caught.value)
        assert caught.value.source == str(folder / NAME)
    assert opened == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xef\xbb\xbf{}", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"weight_map": {"a": "b"},}', "not valid JSON"),
        (b'{"weight_map": {"a": "b"}} x', "not valid JSON"),
        (b'{"weight_map": {"a": "b"}, "metadata": NaN}', "NaN is not JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"metadata": ' + b"9" * 10_000 + b"}", "not valid JSON"),
        (b"[]", "no weight_map object"),
        (b"{}", "no weight_map object"),
        (b'{"weight_map": []}', "no weight_map object"),
        (b'{"weight_map": {}}', "weight_map of the index is empty"),
        (b'{"weight_map": {"a": "b", "a": "c"}}', "the key 'a' is there twice"),
        (b'{"weight_map": {"a": "b"}, "weight_map": {"a": "c"}}', "the key 'weight_map' is there twice"),
        (b'{"weight_map": {"\\ud800": "b"}}', "lone surrogate"),
        (b'{"weight_map": {"a\\u0000": "b"}}', "NUL"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "not valid JSON"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else None,
)
def test_what_is_no_index(tmp_path: Path, text: bytes, message: str, opened: list[Any]) -> None:
    (tmp_path / NAME).write_bytes(text)
    with pytest.raises(ws.FormatError, match=message) as caught:
        ws.open(tmp_path)
    assert caught.value.source == str(tmp_path / NAME)
    assert opened == []


def test_an_index_has_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a.safetensors", blocks(1, 10))
    text = json.dumps({"weight_map": {"t000": "a.safetensors"}})
    (tmp_path / NAME).write_text(text)
    monkeypatch.setattr(index_module, "MAX_INDEX_BYTES", len(text))
    assert_same(ws.load(tmp_path), blocks(1, 10))
    monkeypatch.setattr(index_module, "MAX_INDEX_BYTES", len(text) - 1)
    with pytest.raises(ws.FormatError, match="larger than"):
        ws.load(tmp_path)


def test_what_an_index_says_beside_the_map_does_not_matter(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", blocks(1, 10))
    text = {"metadata": {"total_size": "wrong"}, "format": 3, "weight_map": {"t000": "a.safetensors"}}
    (tmp_path / NAME).write_text(json.dumps(text, indent=4) + "\n")
    assert_same(ws.load(tmp_path), blocks(1, 10))


def test_an_index_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / NAME).write_text("{}")

    def refuse(*_: Any) -> Any:
        raise PermissionError(13, os.strerror(13), str(tmp_path / NAME))

    monkeypatch.setattr(index_module, "open", refuse, raising=False)
    with pytest.raises(ws.AuthError) as caught:
        ws.open(tmp_path)
    assert (caught.value.errno, caught.value.filename) == (13, str(tmp_path / NAME))
