"""Locations: what each kind stands for, in which order, and what is refused before anything is opened."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, raw, write_file, write_shards

Shards = tuple[Path, dict[str, Raw]]
pytestmark = pytest.mark.usefixtures("no_leaks")


def names_of(location: Any) -> list[str]:
    with ws.open(location) as checkpoint:
        return [os.path.basename(path) for path in checkpoint.paths]


def in_order(count: int = 12) -> list[str]:
    return [f"model-{i}-of-12.safetensors" for i in range(1, count + 1)]


def test_a_file(tmp_path: Path) -> None:
    tensors = blocks(3, 100)
    path = write_file(tmp_path / "m.safetensors", tensors)
    for location in (path, str(path), os.path.relpath(path), f"file://{path}", f"file://localhost{path}"):
        assert_same(ws.load(location), tensors)


def test_a_file_url_is_unquoted(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a b%.safetensors", blocks(1, 10))
    assert_same(ws.load(path.as_uri()), blocks(1, 10))


def test_a_file_of_any_name(tmp_path: Path) -> None:
    assert_same(ws.load(write_file(tmp_path / "weights", blocks(1, 10))), blocks(1, 10))


def test_a_list_keeps_its_order_and_reads_a_file_once(tmp_path: Path) -> None:
    first, second = blocks(2, 50), {"other": raw("F32", (3,), 9)}
    a = write_file(tmp_path / "a.safetensors", first)
    b = write_file(tmp_path / "b.safetensors", second)
    assert names_of([b, str(a), b]) == ["b.safetensors", "a.safetensors"]
    assert list(ws.load((b, a))) == ["other", "t000", "t001"]
    assert_same(ws.load([a, b]), {**first, **second})


def test_a_tensor_in_two_files_needs_an_index(tmp_path: Path) -> None:
    a = write_file(tmp_path / "a.safetensors", blocks(1, 10))
    b = write_file(tmp_path / "b.safetensors", blocks(1, 10, first_seed=5))
    with pytest.raises(ws.FormatError, match=r"'t000' is also in .*a\.safetensors") as caught:
        ws.open([a, b])
    assert caught.value.source == str(b)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t000": "b.safetensors"}}))
    assert_same(ws.load(index), blocks(1, 10, first_seed=5))
    with pytest.raises(ws.FormatError, match="'t000' is also in"):
        ws.open([index, a])  # the index does not speak for a file that is named beside it


def test_an_index_says_which_of_its_shards_has_a_tensor(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", blocks(2, 10))
    write_file(tmp_path / "b.safetensors", blocks(1, 10, first_seed=5))
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t000": "b.safetensors", "t001": "a.safetensors"}}))
    assert_same(ws.load(index), {**blocks(2, 10), **blocks(1, 10, first_seed=5)})


def test_two_indexes_that_differ_on_a_tensor_are_refused(tmp_path: Path) -> None:
    one = write_shards(tmp_path / "one", {"a.safetensors": blocks(1, 10)}, "model.safetensors.index.json")
    two = write_shards(tmp_path / "two", {"b.safetensors": blocks(1, 10, 5)}, "model.safetensors.index.json")
    with pytest.raises(ws.FormatError, match="'t000'"):
        ws.open([one, two])


def test_a_directory_by_its_index(shards: Shards) -> None:
    folder, tensors = shards
    write_file(folder / "extra.safetensors", {"extra": raw("U8", (9,), 0)})  # not in the index
    for location in (folder, str(folder), f"{folder}/", folder / "model.safetensors.index.json", f"file://{folder}"):
        assert names_of(location) == in_order()
        assert_same(ws.load(location), tensors)


def test_a_directory_by_its_only_index(shards: Shards) -> None:
    folder, tensors = shards
    (folder / "model.safetensors.index.json").rename(folder / "unet.fp16.safetensors.index.json")
    write_file(folder / "extra.safetensors", {"extra": raw("U8", (9,), 0)})
    assert_same(ws.load(folder), tensors)


def test_a_directory_with_several_indexes(shards: Shards) -> None:
    folder, tensors = shards
    default = folder / "model.safetensors.index.json"
    other = folder / "model.fp16.safetensors.index.json"
    shutil.copy(default, other)
    assert_same(ws.load(folder), tensors)  # the default one counts
    default.rename(folder / "x.safetensors.index.json")
    with pytest.raises(ws.ConfigError, match=r"several indexes.*model\.fp16\..*x\.safe") as caught:
        ws.open(folder)
    assert caught.value.source == str(folder)
    assert_same(ws.load(other), tensors)


def test_a_directory_without_an_index_sorts_naturally(shards: Shards) -> None:
    folder, tensors = shards
    (folder / "model.safetensors.index.json").unlink()
    (folder / "README.md").write_text("no weights")
    assert names_of(folder) == in_order()
    assert_same(ws.load(folder), tensors)


def test_consolidated_weights_are_not_loaded_twice(tmp_path: Path) -> None:
    tensors = blocks(2, 30)
    write_file(tmp_path / "model-1.safetensors", {"t000": tensors["t000"]})
    write_file(tmp_path / "model-2.safetensors", {"t001": tensors["t001"]})
    write_file(tmp_path / "consolidated.safetensors", {"all": raw("U8", (60,), 3)})
    write_file(tmp_path / "consolidated.00.safetensors", {"half": raw("U8", (60,), 3)})
    assert_same(ws.load(tmp_path), tensors)
    (tmp_path / "model-1.safetensors").unlink()
    (tmp_path / "model-2.safetensors").unlink()
    assert set(ws.load(tmp_path)) == {"all", "half"}  # when there is nothing else, they are the weights


def test_a_name_that_only_begins_like_consolidated(tmp_path: Path) -> None:
    write_file(tmp_path / "consolidated_lora.safetensors", {"a": raw("U8", (6,), 3)})
    write_file(tmp_path / "model.safetensors", {"b": raw("U8", (6,), 3)})
    assert set(ws.load(tmp_path)) == {"a", "b"}


def test_a_glob(shards: Shards) -> None:
    folder, tensors = shards
    assert names_of(folder / "model-*.safetensors") == in_order()
    assert names_of(f"{folder}/model-[1-3]-of-12.safetensors") == in_order(3)
    assert names_of(f"{folder.parent}/**/*-1?-of-12.safetensors") == in_order()[9:]
    assert_same(ws.load(folder / "*.safetensors"), tensors)
    with pytest.raises(ws.NotFoundError, match="no file matches"):
        ws.open(folder / "nothing*.safetensors")


def test_a_path_that_exists_is_no_glob(tmp_path: Path) -> None:
    folder = tmp_path / "model[1]"
    folder.mkdir()
    tensors = blocks(1, 10)
    path = write_file(folder / "a*.safetensors", tensors)
    write_file(folder / "ab.safetensors", blocks(1, 10, 7))
    assert_same(ws.load(path), tensors)
    assert names_of(path) == ["a*.safetensors"]
    (folder / "ab.safetensors").unlink()
    assert_same(ws.load(folder), tensors)


def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    # A download cache has its files as links to where the contents are.
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    write_file(blobs / "5891b5b5", blocks(1, 10))
    snapshot = tmp_path / "snapshots"
    snapshot.mkdir()
    (snapshot / "model.safetensors").symlink_to("../blobs/5891b5b5")
    (snapshot / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t000": "model.safetensors"}}))
    assert_same(ws.load(snapshot), blocks(1, 10))


def test_an_index_may_name_a_folder_below_it(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    write_file(tmp_path / "parts" / "a.safetensors", blocks(1, 10))
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"t000": "parts/a.safetensors"}}')
    assert_same(ws.load(tmp_path), blocks(1, 10))


def test_a_missing_shard(shards: Shards) -> None:
    folder, _ = shards
    (folder / "model-7-of-12.safetensors").unlink()
    with pytest.raises(ws.NotFoundError) as caught:
        ws.open(folder)
    assert caught.value.filename == str(folder / "model-7-of-12.safetensors")


def test_an_index_that_names_a_tensor_its_shard_lacks(tmp_path: Path) -> None:
    write_file(tmp_path / "a.safetensors", blocks(1, 10))
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"t000": "a.safetensors", "x": "a.safetensors"}}'
    )
    with pytest.raises(ws.FormatError, match="'x'") as caught:
        ws.open(tmp_path)
    assert caught.value.source == str(tmp_path / "a.safetensors")


@pytest.mark.parametrize("location", ["foo+bar://x", "ftp://h/p", "S4://b/k", "azure://c/k"])
def test_an_unknown_scheme_is_refused_by_name(location: str) -> None:
    with pytest.raises(ws.ConfigError, match=location.split("://")[0].replace("+", r"\+") + "://"):
        ws.open(location)


def test_the_home_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = blocks(1, 10)
    write_file(tmp_path / "m.safetensors", tensors)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert_same(ws.load("~/m.safetensors"), tensors)
    assert names_of("~") == ["m.safetensors"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~").mkdir()
    write_file(tmp_path / "~" / "other.safetensors", tensors)
    assert names_of("~") == ["other.safetensors"]  # what is there counts as it is written


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "empty string"),
        ([], "empty list"),
        ("a\0b", "NUL"),
        (b"path", "bytes"),
        (7, "int"),
        (None, "NoneType"),
        ([7], "7 is neither"),
        ({"a"}, "set"),
        ("file://otherhost/x", "another host"),
    ],
)
def test_what_is_no_location(location: Any, message: str) -> None:
    with pytest.raises(ws.ConfigError, match=message):
        ws.open(location)


@pytest.mark.parametrize("name", ["missing.safetensors", "missing/", "missing.safetensors.index.json", "a/b/c"])
def test_nothing_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(ws.NotFoundError) as caught:
        ws.open(f"{tmp_path}/{name}")
    assert caught.value.filename == f"{tmp_path}/{name}"


def test_a_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ws.NotFoundError, match=r"no \*\.safetensors file and no index"):
        ws.open(tmp_path)


@pytest.mark.parametrize("kind", ["fifo", "directory", "socket", "dangling"])
def test_what_is_not_a_file_in_place_of_an_index(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "a.safetensors", blocks(1, 10))
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    name = "model.safetensors.index.json"
    if kind == "fifo":
        os.mkfifo(name)
    elif kind == "directory":
        os.mkdir(name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(name)
    else:
        os.symlink("nowhere", name)
    # By its own path a directory is a directory, one without weights.
    expected = {"dangling": (ws.NotFoundError,) * 2, "directory": (ws.ConfigError, ws.NotFoundError)}
    for location, error in zip((tmp_path, [tmp_path / name]), expected.get(kind, (ws.ConfigError,) * 2), strict=True):
        with pytest.raises(error) as caught:
            ws.open(location)
        assert (caught.value.source or "").endswith(name)
