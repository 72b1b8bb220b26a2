"""Several processes of one machine that read the same cold file at the same time: the device is read once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, write_file
from processes import command, environment
from weightstream._core import Reading
from weightstream.safetensors import safe_open
from weightstream.safetensors._mapping import LocalFile

MIB = 2**20
SIZE = 48 * MIB


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    """A cold file."""
    tensors = blocks(12, SIZE // 12)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with ws.open(path) as checkpoint:
        if LocalFile(checkpoint._core, 0).mostly_cached():
            pytest.skip("this filesystem keeps it in memory")
    return path, tensors


@pytest.fixture
def other(model: tuple[Path, dict[str, Raw]]) -> Iterator[Reading]:
    """Somebody else who reads it."""
    with ws.open(model[0]) as checkpoint:
        reading = checkpoint._core.read(0)
        with ws.open(model[0]) as third:
            if not third._core.read(0).shared:
                pytest.skip("this filesystem has no device of its own, or no locks")
        yield reading
        del reading


READ = """
    import json, os, sys
    from pathlib import Path
    import weightstream as ws
    from weightstream.safetensors import safe_open

    def from_device():
        return int(Path("/proc/self/io").read_text().partition("\\nread_bytes: ")[2].split("\\n")[0])

    path, way = sys.argv[1:]
    before = from_device()
    sys.stdin.readline()
    if way == "stream":
        with ws.stream(path, framework="numpy") as stream:
            nbytes = sum(tensor.nbytes for _, tensor in stream)
    else:
        with safe_open(path, "numpy") as handle:
            nbytes = sum(len(handle.get_tensor(name).tobytes()) for name in handle.keys())
    print(json.dumps([nbytes, from_device() - before]))
"""


@pytest.mark.usefixtures("other")
@pytest.mark.parametrize("way", ["stream", "safe_open"])
def test_ranks_that_read_all_of_it(model: tuple[Path, dict[str, Raw]], way: str) -> None:
    ranks = [
        subprocess.Popen(
            command(READ, model[0], way), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), text=True
        )
        for _ in range(3)
    ]
    for rank in ranks:
        assert rank.stdin is not None
        rank.stdin.write("go\n")
        rank.stdin.flush()
    answers = [json.loads(rank.communicate(timeout=60)[0]) for rank in ranks]
    assert [nbytes for nbytes, _ in answers] == [SIZE] * 3
    assert sum(read for _, read in answers) < 1.5 * SIZE  # each alone would make it 3


@pytest.mark.usefixtures("other")
def test_whole_tensors_are_mapped_and_parts_are_read(model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    names = list(tensors)
    with safe_open(path, "pt") as handle:
        handle.get_slice(names[0])[1:3]
        assert (handle.stats.mapped, handle.stats.read) == (0, 1)
        assert_same({name: handle.get_tensor(name) for name in names}, tensors)
        assert handle.stats.mapped == len(names)


def test_a_handle_is_seen_until_it_is_left(model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    name = next(iter(tensors))
    with ws.open(path) as checkpoint:
        with safe_open(path, "pt") as handle:
            assert not checkpoint._core.read(0).shared
            tensor = handle.get_tensor(name)
            assert checkpoint._core.read(0).shared
        assert not checkpoint._core.read(0).shared
        dropped = safe_open(path, "pt")
        dropped.get_tensor(name)
        assert checkpoint._core.read(0).shared
        del dropped
        assert not checkpoint._core.read(0).shared
    assert_same({name: tensor}, {name: tensors[name]})


@pytest.mark.usefixtures("other")
def test_who_asks_for_io_uring_gets_it(model: tuple[Path, dict[str, Raw]]) -> None:
    with ws.stream(model[0], backend="uring", framework="numpy") as stream:
        dict(stream)
    with ws.open(model[0]) as checkpoint:
        assert checkpoint._core.cached(0) < 0.5
