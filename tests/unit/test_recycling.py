"""Dead tensors' memory backs the next reads: nobody who is alive may see that."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

import weightstream as ws
from checkpoints import Raw, bytes_of, raw, write_file
from processes import run

MIB = 2**20


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """160 MiB in tensors from nothing to 12 MiB, so that blocks are shared, whole, and in runs."""
    sizes = random.Random(7)
    tensors: dict[str, Raw] = {}
    left = 160 * MIB
    while left > 0:
        nbytes = sizes.choice([0, 7, 4096, 70_001, 900_000, 2 * MIB, 3 * MIB + 5, 12 * MIB])
        tensors[f"t{len(tensors):03}"] = raw("U8", (nbytes,), len(tensors))
        left -= nbytes
    return write_file(tmp_path_factory.mktemp("uneven") / "m.safetensors", tensors), tensors


@pytest.mark.parametrize("backend", ["uring", "pread"])
@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("memory_limit", ["64MiB", "96MiB", None])
def test_kept_tensors_stay_exact_while_others_are_dropped(
    uneven: tuple[Path, dict[str, Raw]], backend: str, order: str, memory_limit: str | None
) -> None:
    path, expected = uneven
    chance = random.Random(f"{backend} {order} {memory_limit}")
    kept: dict[str, np.ndarray] = {}
    seen = 0
    with ws.stream(path, framework="numpy", backend=backend, order=order, memory_limit=memory_limit) as stream:
        for name, tensor in stream:
            assert bytes_of(tensor) == expected[name].data
            seen += 1
            if chance.random() < 0.3:
                kept[name] = tensor
            if len(kept) > 8:
                victim = chance.choice(sorted(kept))
                assert bytes_of(kept.pop(victim)) == expected[victim].data
            del tensor
    assert seen == len(expected)
    for name, tensor in kept.items():
        assert bytes_of(tensor) == expected[name].data
        tensor[...] = 0  # and they are still the caller's to write to


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_may_drop_tensors(uneven: tuple[Path, dict[str, Raw]]) -> None:
    path, _ = uneven
    program = """
        import os, time, threading, warnings
        import numpy
        import weightstream as ws

        warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
        children = []
        for round in range(4):
            held = []
            checkpoint = ws.open(sys.argv[1], framework="numpy", backend="pread")
            with checkpoint.stream(memory_limit="64MiB") as stream:
                for number, (name, tensor) in enumerate(stream):
                    if number < 6:
                        held.append(tensor)
                    elif number % 25 == 0:
                        child = os.fork()
                        if child == 0:
                            held.clear()
                            del tensor
                            checkpoint.close()
                            stream.close()
                            os._exit(0)
                        children.append(child)
            held.clear()
        deadline = time.monotonic() + 30
        while children:
            pid, status = os.waitpid(children[-1], os.WNOHANG)
            if pid:
                assert status == 0, status
                children.pop()
            elif time.monotonic() > deadline:
                for child in children:
                    os.kill(child, 9)
                raise SystemExit(f"{len(children)} children hang")
            else:
                time.sleep(0.01)
        print("done")
    """
    assert run(program, path).strip() == "done"
