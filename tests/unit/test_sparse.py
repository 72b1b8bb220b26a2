"""A selection of every second tensor: memory holds what is wanted, not the huge pages around it."""

from __future__ import annotations

from pathlib import Path

from checkpoints import blocks, write_file
from processes import run

MIB = 2**20


def test_huge_pages_lie_only_under_what_is_wanted(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(64, MIB))
    program = """
        import time
        import numpy
        import weightstream as ws

        def resident():
            with open("/proc/self/statm") as file:
                return int(file.read().split()[1]) * 4096

        with ws.open(sys.argv[1], framework="numpy", backend="pread") as checkpoint:
            names = list(checkpoint)[::2]
            before = resident()
            with checkpoint.stream(names=names, memory_limit="256MiB") as stream:
                deadline = time.monotonic() + 30
                while stream.stats.bytes_read < stream.nbytes and time.monotonic() < deadline:
                    time.sleep(0.01)
                print(stream.nbytes, stream.stats.bytes_read, resident() - before)
    """
    nbytes, read, grown = map(int, run(program, path).split())
    assert nbytes == 32 * MIB
    assert read >= nbytes
    assert grown < nbytes + 12 * MIB  # one huge page under each would be 64 MiB
