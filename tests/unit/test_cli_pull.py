"""`weightstream pull`: what it copies, what it leaves alone, what it refuses, and what it says."""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, pattern, write_shards
from commands import invoke, one_error_line, run
from processes import on_a_terminal
from weightstream._pull import destination as destinations
from weightstream._pull import part as parts
from weightstream._pull import pull
from weightstream.sources import File, LocalSource

TENSORS = {"model-1.safetensors": blocks(2, 3000), "model-2.safetensors": blocks(3, 700_000, 5)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model with all that belongs to one."""
    folder = write_shards(tmp_path / "source", TENSORS)
    (folder / "merges.txt").write_bytes(b"a b\n")
    (folder / "modeling_odd.py").write_text("print()\n")
    (folder / "empty.json").write_bytes(b"")
    (folder / "original" / "deep").mkdir(parents=True)
    (folder / "original" / "deep" / "params ü.json").write_bytes(b"{}")
    (folder / "original" / "exact.bin").write_bytes(pattern(2 * parts.PIECE, 3))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a model by key."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {key: path.read_bytes() for key, path in found.items() if not key.startswith(".weightstream/")}


def report(*arguments: Any) -> dict[str, Any]:
    result = invoke("pull", *arguments, "--json")
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def breaking(monkeypatch: pytest.MonkeyPatch, after: int, error: BaseException) -> None:
    """Writing fails after so many pieces."""
    write, written = parts.Part.write, []

    def break_(self: parts.Part, begin: int, data: memoryview) -> bool:
        if len(written) == after:
            raise error
        written.append(begin)
        return write(self, begin, data)

    monkeypatch.setattr(parts.Part, "write", break_)


def test_all_files_are_copied(source: Path, tmp_path: Path, no_leaks: Callable[[], None]) -> None:
    files = contents(source)
    got = report(source, tmp_path / "new" / "dest")
    assert contents(tmp_path / "new" / "dest") == files
    size = sum(map(len, files.values()))
    expected = {"source": str(source), "destination": str(tmp_path / "new" / "dest"), "files": 7, "bytes": size}
    expected |= {"skipped": 0, "skipped_bytes": 0, "kept_bytes": 0, "retries": 0}
    assert {name: got[name] for name in expected} == expected
    assert set(got) - set(expected) == {"bytes_read", "seconds", "gigabytes_per_second"}
    no_leaks()


def test_what_was_pulled_loads(shards: tuple[Path, dict[str, Raw]], tmp_path: Path) -> None:
    folder, tensors = shards
    report(folder, tmp_path / "dest")
    assert_same(ws.load(tmp_path / "dest", framework="numpy"), tensors)


def test_one_file_and_a_glob(source: Path, tmp_path: Path) -> None:
    report(source / "merges.txt", tmp_path / "one")
    assert list(contents(tmp_path / "one")) == ["merges.txt"]
    report(f"{source}/**/*.json", tmp_path / "glob")
    assert sorted(contents(tmp_path / "glob")) == ["empty.json", "original/deep/params ü.json"]


def test_only_records_are_left_in_the_hidden_folder(source: Path, tmp_path: Path) -> None:
    report(source, tmp_path / "dest")
    left = sorted(path.name for path in (tmp_path / "dest" / ".weightstream").iterdir())
    assert len(left) == 7
    assert all(name.endswith(".json") and ".part" not in name for name in left)
    # It is no part of the model when that is copied on.
    report(tmp_path / "dest", tmp_path / "next")
    assert contents(tmp_path / "next") == contents(source)
    assert len(list((tmp_path / "next" / ".weightstream").iterdir())) == 7


def test_files_have_the_usual_permissions(source: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        report(source, tmp_path / "dest")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "dest" / "merges.txt").stat().st_mode) == 0o640


def test_what_is_complete_is_skipped(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report(source, tmp_path / "dest")
    before = (tmp_path / "dest" / "model-1.safetensors").stat()
    monkeypatch.chdir(tmp_path)
    got = report("source", "dest")
    assert (got["files"], got["bytes"], got["skipped"]) == (0, 0, 7)
    assert got["skipped_bytes"] == sum(map(len, contents(source).values()))
    assert (tmp_path / "dest" / "model-1.safetensors").stat() == before


@pytest.mark.parametrize("forget", [False, True], ids=["another mtime", "no record"])
def test_a_file_that_somebody_changed_is_pulled_again(source: Path, tmp_path: Path, forget: bool) -> None:
    report(source, tmp_path / "dest")
    changed = tmp_path / "dest" / "merges.txt"
    changed.write_bytes(b"b a\n")
    if forget:
        for record in (tmp_path / "dest" / ".weightstream").iterdir():
            if json.loads(record.read_text())["key"] == "merges.txt":
                record.write_text("no JSON")
    assert report(source, tmp_path / "dest")["files"] == 1
    assert changed.read_bytes() == b"a b\n"


def test_a_source_that_changed_is_pulled_again(source: Path, tmp_path: Path) -> None:
    report(source, tmp_path / "dest")
    (source / "merges.txt").write_bytes(b"c d\n")
    got = report(source, tmp_path / "dest")
    assert (got["files"], got["skipped"]) == (1, 6)
    assert (tmp_path / "dest" / "merges.txt").read_bytes() == b"c d\n"


def test_force_pulls_everything(source: Path, tmp_path: Path) -> None:
    report(source, tmp_path / "dest")
    got = report(source, tmp_path / "dest", "--force")
    assert (got["files"], got["skipped"]) == (7, 0)
    assert contents(tmp_path / "dest") == contents(source)


@pytest.mark.parametrize(
    ("patterns", "keys"),
    [
        (["--include", "*.json"], ["empty.json", "original/deep/params ü.json"]),
        (["--include", "*.txt", "--include", "original/*.bin"], ["merges.txt", "original/exact.bin"]),
        (
            ["--exclude", "original/*", "--exclude", "*.safetensors"],
            ["empty.json", "merges.txt", "modeling_odd.py"],
        ),
        (["--include", "m*", "--exclude", "*.safetensors"], ["merges.txt", "modeling_odd.py"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_include_and_exclude(source: Path, tmp_path: Path, patterns: list[str], keys: list[str]) -> None:
    report(source, tmp_path / "dest", *patterns)
    assert sorted(contents(tmp_path / "dest")) == keys


def test_nothing_to_pull_is_said(source: Path, tmp_path: Path) -> None:
    result = run("pull", source, tmp_path / "dest", "--include", "*.gguf")
    assert (result.returncode, result.stdout) == (1, "")
    message = f"{source}: there is no file to pull: 7 are there, but include and exclude leave none"
    assert one_error_line(result.stderr) == message
    result = run("pull", tmp_path / "nothing", tmp_path / "dest")
    assert (result.returncode, result.stdout) == (1, "")
    assert "nothing: no such file" in one_error_line(result.stderr)
    assert not (tmp_path / "dest").exists()


def test_a_folder_is_not_pulled_onto_itself(source: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(source)
    before = contents(source)
    result = run("pull", source, tmp_path / "link", "--force")
    assert result.returncode == 2
    assert "the destination is the source itself" in one_error_line(result.stderr)
    assert contents(source) == before
    assert not (source / ".weightstream").exists()


def test_an_interrupted_pull_goes_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = source / "big.bin"
    big.write_bytes(pattern(6 * parts.PIECE + 5, 1))
    with monkeypatch.context() as patch:
        breaking(patch, 3, OSError(errno.EIO, "Input/output error"))
        result = invoke("pull", big, tmp_path / "dest")
    assert result.exit_code == 1
    assert (tmp_path / "dest" / "big.bin.part").exists()
    assert not (tmp_path / "dest" / "big.bin").exists()
    got = report(big, tmp_path / "dest")
    assert got["kept_bytes"] in (3 * parts.PIECE, 2 * parts.PIECE + 5)
    assert got["bytes"] + got["kept_bytes"] == big.stat().st_size
    assert contents(tmp_path / "dest") == {"big.bin": big.read_bytes()}


@pytest.mark.parametrize("change", ["source", "part", "record", "force"])
def test_what_cannot_be_trusted_is_not_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    big = source / "big.bin"
    big.write_bytes(pattern(4 * parts.PIECE, 1))
    with monkeypatch.context() as patch:
        breaking(patch, 2, OSError(errno.EIO, "Input/output error"))
        assert invoke("pull", big, tmp_path / "dest").exit_code == 1
    (record,) = (tmp_path / "dest" / ".weightstream").iterdir()
    part = tmp_path / "dest" / "big.bin.part"
    if change == "source":
        big.write_bytes(pattern(4 * parts.PIECE, 2))
    elif change == "part":  # another file of the same size
        (tmp_path / "other").write_bytes(bytes(4 * parts.PIECE))
        (tmp_path / "other").replace(part)
    elif change == "record":
        record.write_text(record.read_text().replace('"done": "', '"done": "ffffffff'))
    got = report(big, tmp_path / "dest", *(["--force"] if change == "force" else []))
    assert (got["kept_bytes"], got["bytes"]) == (0, 4 * parts.PIECE)
    assert (tmp_path / "dest" / "big.bin").read_bytes() == big.read_bytes()


def test_no_link_inside_the_destination_is_followed(source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "original").symlink_to(outside)
    result = run("pull", source, tmp_path / "dest")
    assert result.returncode == 1
    assert "original/" in (message := one_error_line(result.stderr))
    assert "is a symbolic link or a file, and is not followed; remove it" in message
    assert list(outside.iterdir()) == []


def test_a_link_in_the_place_of_a_file_is_replaced(source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    (tmp_path / "dest").mkdir()
    (tmp_path / "dest" / "merges.txt").symlink_to(outside)
    report(source, tmp_path / "dest")
    assert outside.read_text() == "mine"
    assert not (tmp_path / "dest" / "merges.txt").is_symlink()
    assert (tmp_path / "dest" / "merges.txt").read_bytes() == b"a b\n"


@pytest.mark.parametrize("kind", ["symbolic", "hard", "metadata"])
def test_a_link_in_the_place_of_a_part_is_not_written_through(source: Path, tmp_path: Path, kind: str) -> None:
    outside = tmp_path / "outside"
    (tmp_path / "dest").mkdir()
    if kind == "metadata":
        outside.mkdir()
        (tmp_path / "dest" / ".weightstream").symlink_to(outside)
    else:
        outside.write_text("mine")
        link = os.symlink if kind == "symbolic" else os.link
        link(outside, tmp_path / "dest" / "merges.txt.part")
    result = run("pull", source / "merges.txt", tmp_path / "dest")
    if kind == "metadata":
        assert list(outside.iterdir()) == []
    else:
        assert outside.read_text() == "mine"
    assert result.returncode == (0 if kind == "hard" else 1)
    if kind != "hard":
        assert "symbolic link" in one_error_line(result.stderr)


def test_a_folder_in_the_place_of_a_file_is_named(source: Path, tmp_path: Path) -> None:
    (tmp_path / "dest" / "merges.txt").mkdir(parents=True)
    result = run("pull", source / "merges.txt", tmp_path / "dest")
    assert result.returncode == 1
    assert "dest/merges.txt: there is a folder of this name (errno 21)" in one_error_line(result.stderr)


@pytest.mark.parametrize("key", ["../a", "a/../../b", "/etc/a", "a//b", ".", "a\\b", "a\0b"])
def test_keys_cannot_leave_the_destination(tmp_path: Path, key: str) -> None:
    with destinations.Destination(str(tmp_path / "dest")) as folder, pytest.raises(ws.FormatError, match="the key"):
        folder.open_folder(key)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dest"]


@pytest.mark.parametrize(
    ("names", "message"),
    [(["a", "a.part"], "'a.part' is where 'a' is written"), (["a", "a/b"], "'a' is a file, and 'a/b' lies below it")],
)
def test_names_that_clash_are_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], message: str
) -> None:
    files = [File(name, 4, LocalSource(str(source / "merges.txt"))) for name in names]
    monkeypatch.setattr("weightstream._pull.list_files", lambda *_: files)
    with pytest.raises(ws.ConfigError, match=message):
        pull("x", tmp_path / "dest")
    assert pull("x", tmp_path / "dest", exclude=[names[1]]).files == 1


def test_space_is_looked_for_first(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = sum(map(len, contents(source).values()))

    def free(of: int) -> Any:
        return type("Status", (), {"f_bavail": (needed - 1) // 512, "f_frsize": 512})

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstatvfs", free)
        result = invoke("pull", source, tmp_path / "dest")
    assert result.exit_code == 1
    assert f"there is not enough space: {needed} bytes are needed" in one_error_line(result.stderr)
    assert contents(tmp_path / "dest") == {}
    report(source, tmp_path / "dest")


def test_a_full_disk_keeps_what_is_there(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    big = source / "original" / "exact.bin"
    with monkeypatch.context() as patch:
        pwrite, written = os.pwrite, []

        def full(fd: int, data: memoryview, offset: int) -> int:
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(offset)
            return pwrite(fd, data, offset)

        patch.setattr(os, "pwrite", full)
        result = invoke("pull", big, tmp_path / "dest")
    assert result.exit_code == 1
    message = "exact.bin: cannot write it: No space left on device; make room and pull again: what is there is kept"
    assert message in one_error_line(result.stderr)
    assert report(big, tmp_path / "dest")["kept_bytes"] == parts.PIECE


def test_short_writes_go_on(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: max(1, len(data) // 3)], at))
    report(source, tmp_path / "dest")
    assert contents(tmp_path / "dest") == contents(source)


def test_a_file_that_changes_after_the_listing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightstream import _pull

    listed = _pull.list_files

    def change(*arguments: Any) -> Any:
        files = listed(*arguments)
        (source / "merges.txt").write_bytes(b"x y\n")
        return files

    monkeypatch.setattr(_pull, "list_files", change)
    with pytest.raises(ws.SourceChangedError, match="changed since it was listed"):
        pull(source, tmp_path / "dest")
    assert not (tmp_path / "dest" / "merges.txt").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_destination_that_may_not_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "dest").mkdir(mode=0o500)
    result = run("pull", source, tmp_path / "dest")
    assert result.returncode == 1
    assert "permission denied" in one_error_line(result.stderr)


def test_more_files_than_are_pulled_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(25):
        (folder / f"{i}.bin").write_bytes(pattern(100 + i, i))
    monkeypatch.setattr("weightstream._pull._most_together", lambda: 4)
    assert report(folder, tmp_path / "dest")["files"] == 25
    assert contents(tmp_path / "dest") == contents(folder)


def test_the_summary_for_people(source: Path, tmp_path: Path) -> None:
    result = run("pull", source, tmp_path / "dest")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("7 files, 18.9 MB in ")
    assert result.stdout.endswith(f"in {tmp_path / 'dest'}\n")
    result = run("pull", source, tmp_path / "dest")
    assert "7 files, 18.9 MB skipped: complete already" in result.stdout
    assert run("pull", source, tmp_path / "dest", "--force", "-q").stdout == ""


@pytest.mark.parametrize(("option", "shown"), [(None, True), ("--no-progress", False), ("--quiet", False)])
def test_progress_shows_on_a_terminal(source: Path, tmp_path: Path, option: str | None, shown: bool) -> None:
    command = [sys.executable, "-m", "weightstream", "pull", str(source), str(tmp_path / "dest")]
    status, screen, _ = on_a_terminal(command + ([] if option is None else [option]))
    assert status == 0, screen
    assert ("7/7 files" in screen) is shown
    if not shown:
        assert screen == ""
