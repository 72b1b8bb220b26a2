"""weightstream.runai.ObjectStorageModel: one process copies, the others wait; what is left when it fails."""

from __future__ import annotations

import fcntl
import gc
import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from weightstream.runai import ObjectStorageModel, object_storage_model

URL = "s3://bucket/model"
SENTINEL = ObjectStorageModel.SENTINEL_NAME


@pytest.fixture
def pulls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """The calls of pull_files; each copies one file."""
    calls: list[tuple[Any, ...]] = []

    def pull(url: str, dst: str, allow: Any, ignore: Any, credentials: Any) -> None:
        calls.append((url, dst, allow, ignore, credentials))
        Path(dst, f"file-{len(calls)}").write_text("x")

    monkeypatch.setattr(object_storage_model, "pull_files", pull)
    return calls


@pytest.fixture(params=[False, True], ids=["no-folder", "stale-folder"])
def dst(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where to; with something in it from a copy that was not completed, or not there."""
    folder = tmp_path / "cache" / "model"
    if request.param:
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "stale.json").write_text("old")
    return folder


def is_free(dst: Path) -> bool:
    with open(f"{dst}.lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_copies_once(dst: Path, pulls: list[Any]) -> None:
    with ObjectStorageModel(model_path=URL, dst=f"{dst}/", s3_credentials=None) as model:
        assert model.dir == str(dst)
        assert list(dst.iterdir()) == []
        model.pull_files(allow_pattern=["*.json"])
        model.pull_files(ignore_pattern=["*.json"])
        assert not (dst / SENTINEL).exists()
        assert not is_free(dst)
    assert is_free(dst)
    assert pulls == [(f"{URL}/", str(dst), ["*.json"], None, None), (f"{URL}/", str(dst), None, ["*.json"], None)]
    assert sorted(os.listdir(dst)) == [SENTINEL, "file-1", "file-2"]
    for _ in range(2):
        with ObjectStorageModel(URL, str(dst)) as model:
            model.pull_files()
    assert len(pulls) == 2
    assert sorted(os.listdir(dst)) == [SENTINEL, "file-1", "file-2"]


def test_those_that_find_it_there_do_not_wait_for_each_other(dst: Path, pulls: list[Any]) -> None:
    with ObjectStorageModel(URL, str(dst)) as model:
        model.pull_files()
    with ObjectStorageModel(URL, str(dst)), ObjectStorageModel(URL, str(dst)) as second:
        second.pull_files()
    assert len(pulls) == 1


def test_a_block_that_fails_leaves_it_to_the_next(dst: Path, pulls: list[Any]) -> None:
    with pytest.raises(ZeroDivisionError), ObjectStorageModel(URL, str(dst)) as model:  # noqa: PT012
        model.pull_files()
        raise ZeroDivisionError
    assert is_free(dst)
    assert not (dst / SENTINEL).exists()
    with ObjectStorageModel(URL, str(dst)) as model:
        assert list(dst.iterdir()) == []
        model.pull_files()
    assert sorted(os.listdir(dst)) == [SENTINEL, "file-2"]


def test_nothing_copied_is_an_error(dst: Path, pulls: list[Any]) -> None:
    message = r"^no file was copied to .*'s3://bucket/model/' the right prefix\?$"
    with pytest.raises(RuntimeError, match=message), ObjectStorageModel(URL, str(dst)):
        (dst / ".weightstream").mkdir()  # what a pull remembers is no file of the model
    assert is_free(dst)
    assert not (dst / SENTINEL).exists()


def test_a_mark_that_cannot_be_written(dst: Path, pulls: list[Any]) -> None:
    model = ObjectStorageModel(URL, str(dst))
    model.pull_files()
    (dst / SENTINEL).symlink_to(dst / "missing" / "folder")
    with pytest.raises(RuntimeError, match=r"^cannot mark .* as complete"):
        model.__exit__(None, None, None)
    assert is_free(dst)


def test_without_with(dst: Path, pulls: list[Any]) -> None:
    """As an engine that hands __exit__ on: the lock is taken by the constructor, and given up with the object."""
    model = ObjectStorageModel(URL, str(dst))
    assert not is_free(dst)
    model.pull_files()
    model.__exit__(None, None, None)
    assert is_free(dst)
    assert (dst / SENTINEL).exists()
    os.unlink(dst / SENTINEL)
    model = ObjectStorageModel(URL, str(dst))
    assert not is_free(dst)
    del model
    gc.collect()
    assert is_free(dst)


@pytest.mark.parametrize("url", ["/models/llama", "models/llama", "file:///models/llama", ""])
def test_what_is_no_url(url: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a URL of a storage"):
        ObjectStorageModel(url, str(tmp_path / "to"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dst", ["/", "//", "~", ".", ".."])
def test_folders_that_must_not_be_emptied(dst: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "precious").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home)
    with pytest.raises(ValueError, match="is emptied before files are copied to it"):
        ObjectStorageModel(URL, os.path.expanduser(dst))
    assert (home / "precious").exists()


def in_processes(count: int, work: Callable[[int], None]) -> list[int]:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode if process.exitcode is not None else -1 for process in processes]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_one_of_several_processes_copies(dst: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "log"

    def pull(url: str, to: str, *_: Any) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.2)
        Path(to, "config.json").write_text("{}")

    monkeypatch.setattr(object_storage_model, "pull_files", pull)

    def work(_: int) -> None:
        with ObjectStorageModel(URL, str(dst)) as model:
            model.pull_files()
            assert (dst / "config.json").exists()

    assert in_processes(6, work) == [0] * 6
    assert len(log.read_text().splitlines()) == 1
    assert sorted(os.listdir(dst)) == [SENTINEL, "config.json"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_does_not_take_the_lock_from_its_parent(dst: Path, pulls: list[Any]) -> None:
    model = ObjectStorageModel(URL, str(dst))

    def work(_: int) -> None:
        model.__exit__(ValueError, ValueError(), None)

    assert in_processes(1, work) == [0]
    assert not is_free(dst)
    model.pull_files()
    model.__exit__(None, None, None)
    assert is_free(dst)
