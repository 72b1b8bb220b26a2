"""Tensors in a mapping of a file: what each costs the process, and what is raised where no more can be mapped."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import Any

import pytest

from checkpoints import bytes_of, raw, write_file
from processes import descriptors, run
from weightstream.safetensors import safe_open

MIB = 2**20


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "mmap")
    tensors = {"large": raw("U8", (8, MIB), 1), "odd": raw("F16", (3, MIB), 2), "small": raw("F32", (100, 30), 3)}
    return write_file(tmp_path / "m.safetensors", {"first": raw("U8", (1,), 0), **tensors})


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_no_tensor_keeps_a_descriptor(path: Path, framework: str) -> None:
    handle = safe_open(path, framework)
    handle.get_tensor("first")
    before = descriptors()
    kept = [handle.get_slice("small")[row] for row in range(100)]
    kept += [handle.get_slice("large")[row % 8] for row in range(40)]
    kept += [handle.get_tensor(name) for _ in range(3) for name in handle.keys()]  # noqa: SIM118
    kept += [handle.get_slice("small")[row, 3:5] for row in range(100)]
    assert descriptors() == before


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_small_parts_have_no_mapping_of_their_own(path: Path, framework: str) -> None:
    handle = safe_open(path, framework)
    kept = [handle.get_slice("small")[row] for row in (5, 6)]
    before = mappings(path)
    kept += [handle.get_slice("small")[row] for row in range(100)]
    kept += [handle.get_tensor(name) for _ in range(2) for name in ("first", "small")]
    assert mappings(path) == before
    del handle, kept
    assert mappings(path) == 0


@pytest.mark.parametrize("framework", ["pt", "np"])
def test_large_ones_are_pages_of_their_own_as_long_as_they_live(path: Path, framework: str) -> None:
    handle = safe_open(path, framework)
    first = handle.get_tensor("large")
    expected = bytes_of(first)
    before = mappings(path)
    again: list[Any] = [handle.get_tensor("large"), handle.get_slice("large")[2:5], handle.get_slice("large")[4:]]
    assert mappings(path) == before + 3
    for tensor in (first, again[0], again[1]):
        tensor[...] = 0
    assert bytes_of(again[2]) == expected[4 * MIB :]
    assert bytes_of(handle.get_tensor("large")) == expected
    del tensor, again
    assert mappings(path) == before
    assert not first.any()


def test_a_large_one_that_is_asked_for_again_takes_no_memory_before_it_is_touched(path: Path) -> None:
    handle = safe_open(path, "pt")
    handle.get_tensor("large")
    before = int(Path("/proc/self/statm").read_text().split()[1])
    kept = [handle.get_tensor("large") for _ in range(20)]
    assert int(Path("/proc/self/statm").read_text().split()[1]) - before < 20 * MIB // resource.getpagesize()
    assert len(kept) == 20


def test_more_parts_than_descriptors(path: Path) -> None:
    program = """
        import resource
        from weightstream.safetensors import safe_open
        handle = safe_open(sys.argv[1], "np")
        kept = [handle.get_tensor("first")]
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        kept += [handle.get_slice(name)[row] for name in ("small", "large") for row in [0, 1, 2, 3] * 50]
        kept += [handle.get_tensor(name) for name in handle.keys() * 50]
        print(len(kept))
    """
    assert run(program, path, WEIGHTSTREAM_BACKEND="mmap") == "601\n"


@pytest.mark.parametrize(("limit", "number"), [("RLIMIT_AS", errno.ENOMEM), ("RLIMIT_NOFILE", errno.EMFILE)])
def test_a_process_that_may_not_map_any_more_is_told_which_file(path: Path, limit: str, number: int) -> None:
    program = """
        import os, pathlib, resource
        import weightstream as ws
        from weightstream.safetensors import safe_open
        handle = safe_open(sys.argv[1], "np")
        kept = handle.get_tensor("large")
        limit = getattr(resource, sys.argv[2])
        used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        lowest = os.dup(0)
        os.close(lowest)
        lowered = {resource.RLIMIT_AS: used + 2**22, resource.RLIMIT_NOFILE: lowest}[limit]
        before = resource.getrlimit(limit)
        resource.setrlimit(limit, (lowered, before[1]))
        try:
            handle.get_tensor("large")
        except OSError as error:
            resource.setrlimit(limit, before)
            print(type(error).__name__, error.errno, error.filename, isinstance(error, ws.StorageError))
        assert handle.get_tensor("large").shape == (8, 2**20)  # and once it may, it goes on
    """
    said = run(program, path, limit, WEIGHTSTREAM_BACKEND="mmap").split()
    assert said == ["StorageError", str(number), str(path), "True"]
