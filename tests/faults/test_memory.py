"""Memory that runs out while headers are read: an error, never the end of the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import blocks, write_file
from processes import run

PROGRAM = """
    import resource
    import numpy
    import weightstream as ws

    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
    try:
        with ws.open(sys.argv[2:]) as checkpoint:
            outcome = "opened"
    except (ws.StorageError, MemoryError) as error:
        outcome = type(error).__name__
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with ws.open(sys.argv[2]) as checkpoint:
        assert len(checkpoint) == 20_000
    print(outcome)
"""


@pytest.fixture(scope="module")
def wordy(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four shards with headers of several MB."""
    folder = tmp_path_factory.mktemp("wordy")
    return [
        write_file(
            folder / f"{shard}.safetensors", {f"{shard}.{'n' * 150}.{k}": v for k, v in blocks(20_000, 1).items()}
        )
        for shard in "abcd"
    ]


@pytest.mark.parametrize("headroom", [2, 16, 40, 80])
def test_memory_runs_out_while_headers_are_read(wordy: list[Path], headroom: int) -> None:
    assert run(PROGRAM, headroom, *wordy).strip() in ("opened", "StorageError", "MemoryError")


def test_memory_that_is_far_too_little_is_said(wordy: list[Path]) -> None:
    assert run(PROGRAM, 2, *wordy).strip() in ("StorageError", "MemoryError")
