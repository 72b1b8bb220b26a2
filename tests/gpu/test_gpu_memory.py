"""On a real GPU: limits of device and pinned memory, and memory that goes back, also when there is none left."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path

import pytest
import torch
from on_gpu import assert_same_on, bytes_on

import weightstream as ws
from checkpoints import Raw, raw, write_file, write_sparse
from processes import core_threads, wait_until
from weightstream import _core

MIB = 1 << 20
Model = tuple[Path, dict[str, Raw]]


def test_device_memory_stays_within_its_limit(cuda: str, equal_tensors: Model) -> None:
    path, tensors = equal_tensors
    tensor_bytes = 16 * MIB
    gc.collect()
    before = torch.cuda.memory_allocated(cuda)
    torch.cuda.reset_peak_memory_stats(cuda)
    with ws.stream(path, device=cuda, device_limit="64MiB", memory_limit="64MiB") as stream:
        for name, tensor in stream:
            assert bytes_on(tensor) == tensors[name].data
            del tensor
        stats = stream.stats
    neighbour = tensor_bytes  # that shares a read with the oldest
    assert 0 < stats.peak_device_bytes <= 64 * MIB + neighbour
    in_hand = 2 * tensor_bytes  # one that is looked at, one that is about to be
    assert torch.cuda.max_memory_allocated(cuda) - before <= 64 * MIB + neighbour + in_hand
    assert stats.bytes == 32 * tensor_bytes


def test_pinned_memory_stays_within_its_budget_and_goes_back(cuda: str, equal_tensors: Model) -> None:
    path, tensors = equal_tensors
    most = 0
    with ws.stream(path, device=cuda, memory_limit="48MiB") as stream:
        for name, tensor in stream:
            most = max(most, _core.pinned_bytes())
            assert bytes_on(tensor) == tensors[name].data
        assert 0 < stream.stats.peak_host_bytes <= 48 * MIB
    assert 0 < most <= 48 * MIB
    assert _core.pinned_bytes() > 0  # kept for the next stream
    ws.release_pinned_memory()
    wait_until(lambda: _core.pinned_bytes() == 0)
    wait_until(lambda: core_threads() == [])


def test_no_copy_is_from_pageable_memory(cuda: str, model: Model) -> None:
    path, tensors = model
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]

    def copies_of(what: str) -> set[str]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with torch.profiler.profile(activities=activities) as profile:
                if what == "ours":
                    assert len(ws.load(path, device=cuda)) == len(tensors)
                else:
                    torch.ones(MIB).to(cuda)
                torch.cuda.synchronize()
            return {event.name for event in profile.events() if "HtoD" in event.name}

    if not any("Pageable" in name for name in copies_of("torch's")):
        pytest.skip("the profiler of this machine does not see copies")
    ours = copies_of("ours")
    assert any("Pinned" in name for name in ours)
    assert not any("Pageable" in name for name in ours)


def test_torch_counts_the_memory_and_gets_it_back(cuda: str, model: Model) -> None:
    path, tensors = model
    gc.collect()
    before = torch.cuda.memory_allocated(cuda)
    nbytes = sum(len(tensor.data) for tensor in tensors.values())
    weights = ws.load(path, device=cuda)
    assert nbytes <= torch.cuda.memory_allocated(cuda) - before <= 1.02 * nbytes + 4 * MIB
    one_of_many = weights["layer.3.norm"]
    del weights
    gc.collect()
    assert 0 < torch.cuda.memory_allocated(cuda) - before <= 2 * MIB  # what it is packed with
    assert bytes_on(one_of_many) == tensors["layer.3.norm"].data
    del one_of_many
    assert torch.cuda.memory_allocated(cuda) == before


def test_tensors_are_of_the_context_of_torch(cuda: str, model: Model) -> None:
    path, _ = model
    weights = ws.load(path, device=cuda)
    weight = weights["layer.0.weight"].float().nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1)
    vector = torch.ones(1024, device=cuda)
    assert torch.allclose((weight @ vector).cpu(), weight.cpu().double().sum(1).float(), rtol=1e-3, atol=1e-2)
    torch.add(weights["layer.0.norm"], 1)  # a packed one
    torch.cuda.synchronize()


def test_a_stream_that_is_left_half_way(cuda: str, model: Model) -> None:
    path, tensors = model
    gc.collect()
    before = torch.cuda.memory_allocated(cuda)
    for count in (0, 1, 2, 7):
        stream = ws.stream(path, device=cuda, device_limit="32MiB", memory_limit="64MiB")
        kept = dict(next(stream) for _ in range(count))
        stream.close()
        with pytest.raises(ws.ClosedError):
            next(stream)
        assert_same_on(cuda, kept, {name: tensors[name] for name in kept})
        del stream
        kept.clear()
        gc.collect()
        assert torch.cuda.memory_allocated(cuda) == before
    ws.release_pinned_memory()
    wait_until(lambda: core_threads() == [])


def test_a_full_device_is_an_error_and_the_next_load_works(cuda: str, model: Model) -> None:
    path, tensors = model
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(cuda)
    total = torch.cuda.mem_get_info(cuda)[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(cuda) + 64 * MIB) / total, cuda)
    try:
        with pytest.raises(ws.DeviceError, match=r"cannot allocate \d+ bytes for .*out of memory") as caught:
            ws.load(path, device=cuda)
        assert cuda in str(caught.value)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, cuda)
    del caught
    gc.collect()
    assert torch.cuda.memory_allocated(cuda) == before
    assert_same_on(cuda, ws.load(path, device=cuda), tensors)


def test_many_small_tensors(cuda: str, tmp_path: Path) -> None:
    data = raw("U8", (40_000 * 520,), 1).data
    tensors = {f"layers.{i}.scale": Raw("F32", (2 + i % 120,), b"") for i in range(40_000)}
    at = 0
    for name, tensor in tensors.items():
        end = at + 4 * tensor.shape[0]
        tensors[name] = Raw("F32", tensor.shape, data[at:end])
        at = end
    path = write_file(tmp_path / "m.safetensors", tensors)
    gc.collect()
    before = torch.cuda.memory_stats(cuda).get("allocation.all.allocated", 0)
    weights = ws.load(path, device=cuda)
    assert torch.cuda.memory_stats(cuda)["allocation.all.allocated"] - before < 200
    assert_same_on(cuda, weights, tensors)
    assert list(weights) == list(tensors)


def test_the_first_tensor_does_not_wait_for_the_pinning_of_all(cuda: str, tmp_path: Path) -> None:
    # Its bytes are a hole. The pinned memory that the whole load wants takes a tenth of a second.
    names = {f"t{i:03}": ("BF16", (4096, 4096)) for i in range(128)}
    path = write_sparse(tmp_path / "m.safetensors", names)
    ws.release_pinned_memory()
    with ws.stream(path, device=cuda) as stream:
        next(stream)
        stats = stream.stats
    assert stats.bytes <= stats.bytes_total / 4
    assert stats.first_tensor_seconds < 0.25
