"""Promise 2: what is in flight, or ready and not taken, stays under the limit, and the limit is no barrier."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import assert_same, blocks, raw, write_file, write_sparse
from processes import run, wait_until

MIB = 2**20
BLOCK = 4096
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize("backend", ["pread", "uring"])
@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("limit", [MIB, 3 * MIB, 16 * MIB])
def test_the_peak_stays_under_the_limit(tmp_path: Path, backend: str, order: str, limit: int) -> None:
    tensors = {f"t{i:02}": raw("U8", (1 + 11_111 * (i * 7 % 23),), i) for i in range(60)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    with ws.stream(path, backend=backend, order=order, memory_limit=limit) as stream:
        # Before anything is taken, what there is room for is read: a limit that is not used would be slow.
        wait_until(lambda: stream.stats.peak_host_bytes >= min(limit, stream.nbytes) // 2)
        assert_same(stream, tensors)
    assert stream.stats.peak_host_bytes <= limit


@pytest.mark.parametrize("backend", ["pread", "uring"])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_a_tensor_larger_than_the_limit_is_the_only_overshoot(tmp_path: Path, backend: str, order: str) -> None:
    tensors = {"small": raw("U8", (9,), 0), "large": raw("U8", (5 * MIB + 3,), 1), **blocks(8, 300_000, 2)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    with ws.stream(path, backend=backend, order=order, memory_limit=MIB) as stream:
        assert_same(stream, tensors)
    # Its own bytes, and what the reads at either end of it have beside them.
    assert 5 * MIB <= stream.stats.peak_host_bytes <= 5 * MIB + MIB


@pytest.mark.parametrize("limit", [1, 4096, 100_000])
def test_the_smallest_limits_still_load(tmp_path: Path, limit: int) -> None:
    tensors = blocks(20, 50_000)
    path = write_file(tmp_path / "m.safetensors", tensors)
    for order in ("arrival", "file"):
        assert_same(ws.stream(path, memory_limit=limit, order=order), tensors)


@pytest.mark.parametrize("backend", ["pread", "uring"])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_each_tensor_taken_lets_the_next_reads_start(tmp_path: Path, backend: str, order: str) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i:02}": ("U8", (2 * MIB,)) for i in range(16)})
    with ws.stream(path, backend=backend, order=order, memory_limit="8MiB") as stream:
        reached = 0
        for taken in range(1, 17):
            # A slow consumer finds the limit reached each time. It takes one, and reads begin again at once.
            expected = min(reached + 2 * MIB if taken > 1 else 6 * MIB, stream.nbytes)
            wait_until(lambda expected=expected: stream.stats.bytes_read >= expected)
            reached = stream.stats.bytes_read
            assert reached <= (taken - 1) * 2 * MIB + 8 * MIB + BLOCK
            next(stream)
            assert stream.stats.peak_host_bytes <= 8 * MIB
        assert stream.stats.wait_consumer_seconds > 0


def test_a_limit_far_above_the_model_allocates_what_the_model_needs(tmp_path: Path) -> None:
    write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (5 * MIB,)) for i in range(5)})
    peak = growth(tmp_path / "m.safetensors", "2GiB", keep=True)
    assert peak["budget"] <= 25 * MIB + 2 * BLOCK
    assert peak["resident"] < 40 * MIB


@pytest.mark.parametrize("backend", ["pread", "uring"])
@pytest.mark.parametrize("tensor_mib", [1, 8])
def test_a_process_stays_small(tmp_path: Path, backend: str, tensor_mib: int) -> None:
    tensors = {f"t{i:03}": ("U8", (tensor_mib * MIB,)) for i in range(256 // tensor_mib)}
    path = write_sparse(tmp_path / "m.safetensors", tensors)
    peak = growth(path, "32MiB", backend=backend)
    assert peak["budget"] <= 32 * MIB
    # Beside the budget: the tensor in the consumer's hands, a batch of small ones, and the threads' own.
    assert peak["resident"] <= 32 * MIB + 24 * MIB


def growth(path: Path, limit: str, backend: str = "auto", keep: bool = False) -> dict[str, int]:
    """How far a process grows that streams `path` and drops, or keeps, what it is handed. Bytes."""
    program = """
        import json, pathlib, time
        import numpy
        import weightstream as ws

        def peak():
            lines = pathlib.Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024

        path, limit, backend, keep = sys.argv[1:]
        ws.load(path, names=[], framework="numpy")
        before = peak()
        kept = []
        with ws.stream(path, memory_limit=limit, backend=backend, framework="numpy") as stream:
            for name, tensor in stream:
                assert not tensor[0] and not tensor[-1]
                if keep == "True":
                    kept.append(tensor)
                    while stream.stats.bytes_read < stream.nbytes:
                        time.sleep(0.001)
                del tensor
        print(json.dumps({"resident": peak() - before, "budget": stream.stats.peak_host_bytes}))
    """
    result: dict[str, int] = json.loads(run(program, path, limit, backend, keep))
    return result
