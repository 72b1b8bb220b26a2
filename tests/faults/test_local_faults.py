"""Local files that change, vanish or are no files while they are loaded: the right bytes or a precise error."""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, raw, write_file, write_shards, write_sparse
from processes import run

MIB = 2**20
BACKENDS = ["auto", "pread", "uring"]
Model = tuple[Path, dict[str, Raw]]
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """Eight tensors of 1 MiB, in a file that was last written to long ago."""
    tensors = blocks(8, MIB)
    path = write_file(tmp_path / "m.safetensors", tensors)
    os.utime(path, ns=(10**18, 10**18))
    return path, tensors


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def extend(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4 * MIB)
        file.write(b"\xee" * 4 * MIB)


def shrink_and_restore(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 2)
    os.truncate(path, size)


@pytest.mark.parametrize("harm", [truncate, empty, extend, rewrite, shrink_and_restore])
@pytest.mark.parametrize("backend", [*BACKENDS, "mmap"])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_changed_while_it_is_loaded(model: Model, backend: str, order: str, harm: Callable[[Path], None]) -> None:
    path, tensors = model
    handed: dict[str, Any] = {}
    stream = ws.stream(path, backend=backend, order=order, memory_limit="1MiB")

    def consume() -> None:
        for name, tensor in stream:
            if not handed:
                harm(path)
            handed[name] = tensor if backend != "mmap" else None  # of a mapping the bytes may be gone

    with pytest.raises((ws.SourceChangedError, ws.TruncatedError)) as caught:
        consume()
    assert stream.closed
    assert caught.value.source == str(path)
    assert 1 <= len(handed) < 8
    if backend != "mmap":
        assert_same(handed, {name: tensors[name] for name in handed})
    write_file(path, tensors)
    assert_same(ws.load(path, backend=backend), tensors)


def test_the_message_says_what_changed(model: Model) -> None:
    path, _ = model
    size = path.stat().st_size
    with ws.open(path) as checkpoint:
        extend(path)
        with pytest.raises(ws.SourceChangedError, match=f"its size changed from {size} to {size + 1} bytes"):
            checkpoint.load()
        os.truncate(path, size)
        with pytest.raises(ws.SourceChangedError, match="it was written to since its header was read"):
            checkpoint.load()


def replace(path: Path) -> None:
    write_file(path.with_name("new"), blocks(8, MIB, first_seed=50)).rename(path)


@pytest.mark.parametrize("harm", [replace, Path.unlink])
@pytest.mark.parametrize("backend", BACKENDS)
def test_replaced_or_deleted_while_it_is_loaded(model: Model, backend: str, harm: Callable[[Path], None]) -> None:
    path, tensors = model
    handed = {}
    with ws.stream(path, backend=backend, memory_limit="1MiB") as stream:
        for name, tensor in stream:
            if not handed:
                harm(path)
            handed[name] = tensor
    assert_same(handed, tensors)


def test_all_shards_replaced_while_they_are_loaded(tmp_path: Path) -> None:
    # The later ones, too: which version of a shard is read must not depend on how far the stream has come.
    tensors = blocks(20, 300_000)
    files = {f"{name}.safetensors": {name: tensor} for name, tensor in tensors.items()}
    folder = write_shards(tmp_path / "model", files)
    handed = {}
    with ws.stream(folder, memory_limit="1MiB") as stream:
        for name, tensor in stream:
            if not handed:
                for other in tensors:
                    new = write_file(folder / "new", {other: raw("U8", (300_000,), 77)})
                    new.rename(folder / f"{other}.safetensors")
            handed[name] = tensor
    assert_same(handed, tensors)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("directory", "this is a directory"),
        ("fifo", "this is a FIFO"),
        ("socket", "this is a socket"),
        ("device", "this is a character device"),
        ("dangling", "dangling symbolic link"),
        ("loop", "cannot open"),
        ("missing", "no such file"),
        ("below a file", "no such file"),
    ],
)
def test_what_is_not_a_file(tmp_path: Path, kind: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the address of a socket is short
    good = write_file(tmp_path / "good.safetensors", blocks(1, 10))
    bad = tmp_path / "bad.safetensors"
    if kind == "directory":
        bad.mkdir()
    elif kind == "fifo":
        os.mkfifo(bad)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(bad.name)
    elif kind == "device":
        bad.symlink_to("/dev/zero")
    elif kind == "dangling":
        bad.symlink_to("nowhere")
    elif kind == "loop":
        bad.symlink_to(bad.name)
    elif kind == "below a file":
        bad = good / "bad.safetensors"
    number = {"directory": errno.EISDIR, "loop": errno.ELOOP, "below a file": errno.ENOTDIR}.get(kind, errno.ENOENT)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"t000": good.name, "x": str(bad.relative_to(tmp_path))}}))
    for location in (bad, [good, bad], index):
        if kind == "directory" and location is not index:
            continue  # a directory is a location; it is none for a shard
        with pytest.raises((ws.ConfigError, ws.NotFoundError, ws.StorageError), match=message) as caught:
            ws.open(location)
        assert caught.value.source == str(bad)
        if isinstance(caught.value, OSError):
            assert caught.value.errno == number


def test_an_empty_directory_in_a_list(tmp_path: Path) -> None:
    good = write_file(tmp_path / "good.safetensors", blocks(1, 10))
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ws.NotFoundError, match=r"no .*file and no index") as caught:
        ws.open([good, folder])
    assert caught.value.source == str(folder)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def test_what_this_user_may_not_read(open_folder: Path) -> None:
    write_file(open_folder / "closed.safetensors", blocks(1, 10)).chmod(0)
    for name in ("listed", "index"):
        write_shards(open_folder / name, {"a.safetensors": blocks(1, 10)}, "model.safetensors.index.json")
    (open_folder / "index" / "model.safetensors.index.json").chmod(0)
    (open_folder / "listed").chmod(0)
    program = """
        import os, json
        import numpy
        import weightstream as ws

        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)  # nobody
        for name in ("closed.safetensors", "listed", "index", "listed/a.safetensors"):
            try:
                ws.open(os.path.join(sys.argv[1], name))
            except PermissionError as error:
                assert isinstance(error, ws.AuthError)
                print(json.dumps([name, error.errno, error.filename, str(error)]))
    """
    lines = [json.loads(line) for line in run(program, open_folder).splitlines()]
    (open_folder / "listed").chmod(0o755)
    assert [line[0] for line in lines] == ["closed.safetensors", "listed", "index", "listed/a.safetensors"]
    index = str(open_folder / "index" / "model.safetensors.index.json")
    for name, number, filename, text in lines:
        assert number == errno.EACCES
        assert filename == (index if name == "index" else str(open_folder / name))
        assert "permission denied" in text


def test_files_past_4_gib(tmp_path: Path) -> None:
    check_far_offsets(tmp_path, 5 * 2**30, 4 * 2**30)


def test_files_past_2_tib(tmp_path: Path) -> None:
    try:
        check_far_offsets(tmp_path, 3 * 2**40, 2 * 2**40)
    except OSError as error:
        if error.errno != errno.EFBIG or isinstance(error, ws.WeightstreamError):
            raise
        pytest.skip("this filesystem has no files of 3 TiB")


def check_far_offsets(folder: Path, size: int, boundary: int) -> None:
    """Reads bytes on both sides of a boundary in one tensor, and a tensor behind all of it."""
    path = write_sparse(folder / "m.safetensors", {"huge": ("U8", (size // MIB, MIB)), "after": ("U8", (1000,))})
    mark = raw("U8", (4 * MIB,), 1).data
    with ws.open(path) as checkpoint:
        begin = checkpoint["huge"].range[0] + boundary - 2 * MIB
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(mark)
            file.seek(-1000, os.SEEK_END)
            file.write(mark[:1000])
    rows = boundary // MIB
    for backend in ("pread", "auto"):
        with ws.open(path, framework="numpy", backend=backend) as checkpoint:
            part = checkpoint.get_slice("huge")
            assert part[rows - 3 : rows + 3].tobytes() == bytes(MIB) + mark + bytes(MIB)
            assert part[rows].tobytes() == mark[2 * MIB : 3 * MIB]
            assert checkpoint.get_tensor("after").tobytes() == mark[:1000]
    with ws.stream(path, names=["after"]) as stream:
        assert [tensor.numpy().tobytes() for _, tensor in stream] == [mark[:1000]]
        assert stream.stats.bytes_read < 3 * 4096


@pytest.mark.parametrize("backend", BACKENDS)
def test_unaligned_ends(tmp_path: Path, backend: str) -> None:
    for size in (1, 511, 512, 513, 4095, 4096, 4097, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1):
        for misalign in (0, 1, 4000):
            tensors = {"a": raw("U8", (size,), size), "b": raw("U8", (3,), 1)}
            path = write_file(tmp_path / f"{size}-{misalign}", tensors, misalign=misalign)
            assert_same(ws.load(path, backend=backend), tensors)


def test_address_space_that_is_refused(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {"a": ("U8", (2**40,))})
    program = """
        import resource
        import numpy
        import weightstream as ws

        resource.setrlimit(resource.RLIMIT_AS, (2**36, 2**36))
        try:
            ws.stream(sys.argv[1], framework="numpy")
        except ws.StorageError as error:
            print(error.errno, error)
    """
    number, text = run(program, path).split(" ", 1)
    assert int(number) == errno.ENOMEM
    assert text.startswith(f"{path}: cannot reserve")
    assert "ulimit -v" in text
