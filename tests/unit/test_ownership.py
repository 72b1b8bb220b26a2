"""Promise 1: a tensor that was handed out is the consumer's, for as long as anyone holds it, whatever happens."""

from __future__ import annotations

import gc
import io
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, bytes_of, raw, write_file, write_sparse
from processes import wait_until

MIB = 2**20
FRAMEWORKS = ["pt", "numpy"]
pytestmark = pytest.mark.usefixtures("no_leaks")


def fill(tensor: Any, byte: int) -> None:
    """Sets every byte of a tensor, in place."""
    if isinstance(tensor, np.ndarray):
        tensor.reshape(-1).view(np.uint8)[...] = byte
    else:
        tensor.view(-1).view(torch.uint8).fill_(byte)


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    """Tensors from one byte to several huge pages, at all kinds of places within pages."""
    sizes = [1, 3, 4096, 100, 5000, 3 * MIB, 70_000, 7, 2 * MIB + 1, 4095, 4097, 300_000, 5 * MIB + 12_345, 2, 1500]
    tensors = {f"t{i:02}": raw("U8", (size,), i) for i, size in enumerate(sizes)}
    return write_file(tmp_path / "m.safetensors", tensors), tensors


def truncate(path: Path) -> None:
    os.truncate(path, 0)


def overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\xee" * size)
        os.fsync(file.fileno())


def delete(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("backend", ["auto", "uring", "pread"])
def test_valid_after_the_next_and_after_close(model: tuple[Path, dict[str, Raw]], framework: str, backend: str) -> None:
    path, tensors = model
    kept = {}
    with ws.stream(path, framework=framework, backend=backend, memory_limit="1MiB") as stream:
        for name, tensor in stream:
            kept[name] = tensor
            assert bytes_of(tensor) == tensors[name].data
    assert_same(kept, tensors)
    del stream
    gc.collect()
    assert_same(kept, tensors)


@pytest.mark.parametrize("harm", [truncate, overwrite, delete])
@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_valid_when_the_file_is_gone(
    model: tuple[Path, dict[str, Raw]], framework: str, harm: Callable[[Path], None]
) -> None:
    path, tensors = model
    weights = ws.load(path, framework=framework)
    harm(path)
    assert_same(weights, tensors)
    # And those that another stream handed out before it met the harm.
    write_file(path, tensors)
    with ws.stream(path, framework=framework, memory_limit="1MiB", order="file") as stream:
        early = dict(next(stream) for _ in range(3))
        harm(path)
        try:
            early.update(stream)
        except ws.WeightstreamError:
            assert harm is not delete
    assert_same(early, {name: tensors[name] for name in early})


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("backend", ["auto", "uring", "pread", "mmap"])
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_changes_in_place_stay_and_stay_where_they_are(
    model: tuple[Path, dict[str, Raw]], framework: str, backend: str, order: str
) -> None:
    path, tensors = model
    changed, untouched = {}, {}
    with ws.stream(path, framework=framework, backend=backend, order=order, memory_limit="1MiB") as stream:
        for i, (name, tensor) in enumerate(stream):
            assert bytes_of(tensor) == tensors[name].data  # no neighbour's change came over
            if i % 2:
                fill(tensor, 0xA5)
                changed[name] = tensor
            else:
                untouched[name] = tensor
    assert all(set(bytes_of(tensor)) == {0xA5} for tensor in changed.values())  # and nothing was read over it again
    assert_same(untouched, {name: tensors[name] for name in untouched})
    assert_same(ws.load(path), tensors)  # the file never changes


@pytest.mark.parametrize("backend", ["uring", "pread"])
@pytest.mark.parametrize("seed", range(3))
def test_dropped_memory_that_is_used_again_is_nobody_elses(tmp_path: Path, backend: str, seed: int) -> None:
    order = random.Random(seed)
    tensors = {f"t{i:02}": raw("U8", (order.randrange(1, 5 * MIB),), i) for i in range(24)}
    path = write_file(tmp_path / "m.safetensors", tensors)
    kept: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    with ws.stream(path, backend=backend, memory_limit="8MiB") as stream:
        for name, tensor in stream:
            assert bytes_of(tensor) == tensors[name].data
            what = order.random()
            if what < 0.3:
                kept[name] = tensor
            elif what < 0.4:
                fill(tensor, 0x5A)
                changed[name] = tensor
            del tensor
            if kept and order.random() < 0.2:
                kept.pop(order.choice(sorted(kept)))
    assert_same(kept, {name: tensors[name] for name in kept})
    assert all(set(bytes_of(tensor)) == {0x5A} for tensor in changed.values())


def test_a_torch_tensor_has_exactly_its_own_storage(all_dtypes: tuple[Path, dict[str, Raw]]) -> None:
    path, raws = all_dtypes
    storages = set()
    for name, tensor in ws.load(path).items():
        storage = tensor.untyped_storage()
        assert storage.nbytes() == tensor.nbytes == len(raws[name].data)
        assert tensor.storage_offset() == 0
        assert tensor.is_contiguous()
        assert not tensor.requires_grad
        assert tensor.data_ptr() % tensor.element_size() == 0
        if tensor.nbytes:
            storages.add(storage.data_ptr())
            fill(tensor, 1)
    assert len(storages) == sum(1 for r in raws.values() if r.data)


def test_a_numpy_array_has_exactly_its_own_memory(all_dtypes: tuple[Path, dict[str, Raw]]) -> None:
    path, raws = all_dtypes
    for name, array in ws.load(path, framework="numpy").items():
        assert array.nbytes == len(raws[name].data)
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        assert memoryview(array.base).nbytes == array.nbytes
        fill(array, 1)


def test_saving_one_tensor_saves_that_tensor_only(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(64, 10_000))
    for tensor in ws.load(path).values():
        file = io.BytesIO()
        torch.save(tensor, file)
        assert 10_000 <= len(file.getvalue()) < 13_000
        file.seek(0)
        assert torch.equal(torch.load(file), tensor)


def test_tensors_take_part_in_torch(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", {"w": raw("I32", (3, 4), 0), "b": raw("I32", (3,), 1)})
    weights = ws.load(path)
    linear = torch.nn.Linear(4, 3)
    linear.load_state_dict({"weight": weights["w"].float(), "bias": weights["b"].float()})
    parameter = torch.nn.Parameter(ws.load(path)["w"].float())
    parameter.sum().backward()
    weights["w"].resize_(2, 2)
    weights["b"].share_memory_()
    assert np.shares_memory(weights["w"].numpy(), weights["w"].numpy())


def test_used_and_dropped_from_other_threads(model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    wrong: list[str] = []
    for framework in FRAMEWORKS:
        items = list(ws.load(path, framework=framework).items())
        random.Random(0).shuffle(items)

        def work(items: list[tuple[str, Any]]) -> None:
            while items:
                try:
                    name, tensor = items.pop()
                except IndexError:
                    return
                if bytes_of(tensor) != tensors[name].data:
                    wrong.append(name)

        threads = [threading.Thread(target=work, args=(items,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("size", [8 * MIB, 700_000])
def test_memory_goes_back_when_a_tensor_dies(tmp_path: Path, framework: str, size: int) -> None:
    count = 96 * MIB // size
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i:03}": ("U8", (size,)) for i in range(count)})
    ws.load(path, framework=framework, names=["t000"])  # what an import takes is not counted
    before = resident()
    weights = ws.load(path, framework=framework)
    full = resident() - before
    assert full > 0.9 * count * size
    for i in range(count // 2):  # the first half: large tensors give up their own, small ones their blocks
        del weights[f"t{i:03}"]
    half = resident() - before
    assert half < 0.6 * full
    assert set(bytes_of(weights[f"t{count - 1:03}"])) == {0}
    weights.clear()
    wait_until(lambda: resident() - before < 0.1 * full, seconds=5)


def test_dropping_every_other_large_tensor_frees_half(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i:02}": ("U8", (6 * MIB,)) for i in range(16)})
    ws.load(path, names=["t00"])
    before = resident()
    weights = ws.load(path)
    full = resident() - before
    for name in list(weights)[::2]:
        del weights[name]
    assert resident() - before < 0.6 * full
    weights.clear()


def test_what_nobody_asked_for_takes_no_memory(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (64 * MIB,)) for i in range(16)})
    ws.load(path, names=[])
    before = resident()
    with ws.open(path) as checkpoint:
        part = checkpoint.get_slice("t7")[MIB : 2 * MIB]
    assert part.nbytes == MIB
    assert resident() - before < 8 * MIB
