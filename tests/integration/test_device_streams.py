"""Streams to a GPU, through the fake driver.

Every dtype and shape, limits, order, the caller's own tensors, casts, and what happens when the device or its memory
fails.
"""

from __future__ import annotations

import ctypes
import gc
import json
import threading
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import DTYPES, Raw, assert_same, blocks, bytes_of, raw, write_file
from fake_gpu import FakeGpu, fake_gpu, library_path
from processes import run, wait_until
from weightstream import _config, _core
from weightstream.frameworks import torch_device

MIB = 1 << 20
OUT_OF_MEMORY = 2


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:
        yield made
        gc.collect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """13 MiB: large tensors, small ones of every dtype between them, and some without elements."""
    tensors = {"large.0": raw("BF16", (MIB, 3), 1), "empty": raw("F32", (0, 7), 2), "scalar": raw("I64", (), 3)}
    for i, dtype in enumerate(DTYPES):
        tensors[f"small.{dtype}"] = raw(dtype, (4, 64), 10 + i)
    tensors["large.1"] = raw("F32", (3, MIB // 4), 4)
    for i in range(40):
        tensors[f"norm.{i}"] = raw("F16", (512,), 50 + i)
    tensors["large.2"] = raw("U8", (4 * MIB + 1,), 5)
    path = tmp_path_factory.mktemp("device") / "model.safetensors"
    return write_file(path, tensors), tensors


def test_every_byte_arrives(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    expected = ws.load(path, backend="mmap", device="cpu")  # mappings are not for devices
    gpu.kernel_us = 300
    with ws.stream(path) as stream:
        assert_same(stream, tensors)
        assert stream.stats.peak_device_bytes > 0
    on_gpu = ws.load(path)
    assert_same(on_gpu, tensors)
    for name, tensor in on_gpu.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
    assert gpu.counts().pageable_copies == 0


def test_small_tensors_are_copied_together(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    assert_same(ws.load(path), tensors)
    assert gpu.counts().copies < 30
    assert gpu.allocations < 30


def test_small_tensors_of_odd_sizes_share_memory(gpu: FakeGpu, tmp_path: Path) -> None:
    """Every dtype, and sizes that are multiples of nothing: in few allocations, and where kernels can load them."""
    tensors = {"large.0": raw("U8", (5 * MIB + 3,), 1)}  # so that no tensor begins where it could
    dtypes = [list(DTYPES)[i % len(DTYPES)] for i in range(600)]
    for i, dtype in enumerate(dtypes):
        size = (4, 4 * (i % 23 + 1)) if dtype.startswith("F6") else (2 * (i % 37), 1 + 7 * (i % 11))
        tensors[f"{i:03}.{dtype}"] = raw(dtype, size if dtype != "F4" else (i % 37, 2 + 4 * (i % 11)), 10 + i)
    tensors["large.1"] = raw("F32", (MIB,), 2)
    path = write_file(tmp_path / "m.safetensors", tensors)
    expected = ws.load(path, backend="mmap", device="cpu")
    with ws.stream(path) as stream:
        weights = dict(stream)
    assert gpu.allocations < 12
    assert_same(weights, tensors)
    for name, tensor in weights.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert tensor.data_ptr() % (16 if tensor.nbytes >= 512 else tensor.element_size()) == 0
    assert gpu.counts().copied_bytes == sum(len(tensor.data) for tensor in tensors.values())
    few = {f"{i:03}.{dtypes[i]}" for i in range(0, 600, 7)}
    assert_same(ws.load(path, names=few), {name: tensors[name] for name in few})


@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("limit", ["1MiB", "7MiB"])
def test_limits(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], order: str, limit: str, tmp_path: Path) -> None:
    path, tensors = model
    trace = tmp_path / "trace.json"
    with ws.stream(path, order=order, device_limit=limit, memory_limit="9MiB", trace=trace) as stream:
        got = []
        for name, tensor in stream:
            assert bytes_of(tensor) == tensors[name].data
            got.append(name)
        stats = stream.stats
    assert sorted(got) == sorted(tensors)
    if order == "file":
        assert got == list(tensors)
    assert stats.peak_host_bytes <= 9 * MIB
    sizes = [len(tensor.data) for tensor in tensors.values()]
    most = _most_for_one(gpu.allocated, sizes, path.stat().st_size - sum(sizes), _reads(trace))
    assert stats.peak_device_bytes <= max(_config.parse_size(limit), most)


def _reads(trace: Path) -> list[tuple[int, int]]:
    """The byte ranges of a stream's reads, in file order."""
    events = json.loads(trace.read_text())["traceEvents"]
    return sorted((event["args"]["begin"], event["args"]["end"]) for event in events if event["name"] == "read")


def _most_for_one(groups: list[int], sizes: list[int], begin: int, reads: list[tuple[int, int]]) -> int:
    """The most bytes that the oldest unfinished tensor can need: its memory, and what else its last read brings.

    `groups` are the bytes of each allocation, in file order, for tensors of these sizes and a little padding. The first
    tensor is at `begin` in the file.
    """
    spans, left = [], list(sizes)
    for nbytes in groups:
        end = begin
        while left and end - begin + left[0] <= nbytes:
            end += left.pop(0)
        spans.append((begin, end))
        begin = end
    assert not left
    most = 0
    for i, (_, end) in enumerate(spans):
        last = next(read for read in reads if read[0] < end <= read[1])
        most = max(most, sum(groups[k] for k in range(i, len(groups)) if spans[k][0] < last[1]))
    return most


def test_tensors_have_storages_of_their_own(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    for name, tensor in ws.load(path).items():
        assert tensor.untyped_storage().nbytes() == len(tensors[name].data)
        assert tensor.storage_offset() == 0


def test_tensors_are_the_callers(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    kept = {}
    with ws.stream(path, device_limit="7MiB") as stream:
        for name, tensor in stream:
            kept[name] = tensor
            if len(kept) == 5:
                break
    assert_same(kept, {name: tensors[name] for name in kept})
    kept["norm.1"] = ws.load(path)["norm.1"]
    gc.collect()
    assert bytes_of(kept["norm.1"]) == tensors["norm.1"].data  # and keeps what it shares


def test_memory_goes_with_the_last_tensor_in_it(gpu: FakeGpu, tmp_path: Path) -> None:
    tensors = blocks(8, 4096) | {"large": raw("U8", (2 * MIB,), 77)}
    weights = ws.load(write_file(tmp_path / "m.safetensors", tensors))
    large = weakref.ref(weights["large"])
    part = weights["t003"]
    del weights
    gc.collect()
    assert large() is None
    assert bytes_of(part) == tensors["t003"].data


def test_selected_names(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    names = ["large.0", "norm.3", "norm.5", "empty"]
    assert_same(ws.load(path, names=names), {name: tensors[name] for name in names})


def test_single_tensors_and_slices(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    with ws.open(path) as checkpoint:
        for name in ("large.0", "norm.1", "empty"):
            assert bytes_of(checkpoint.get_tensor(name)) == tensors[name].data
        assert bytes_of(checkpoint.get_slice("large.1")[1:2]) == tensors["large.1"].data[MIB : 2 * MIB]


def test_unaligned_files(gpu: FakeGpu, tmp_path: Path) -> None:
    tensors = {"a": raw("F32", (MIB,), 1), "b": raw("F64", (3,), 2), "c": raw("BF16", (700_001,), 3)}
    assert_same(ws.load(write_file(tmp_path / "m.safetensors", tensors, misalign=1)), tensors)


def test_dtype_casts_floating_point_tensors(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    plain = ws.load(path)
    for dtype in ("bfloat16", torch.bfloat16):
        for name, tensor in ws.load(path, dtype=dtype).items():
            cast = plain[name].dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
            expected = plain[name].to(torch.bfloat16) if cast else plain[name]
            assert tensor.dtype == expected.dtype
            assert bytes_of(tensor) == bytes_of(expected)
    assert tensors


def test_a_failed_allocation_names_the_tensor(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    for most in (0, 1, 3):
        gpu.most_live = most
        with pytest.raises(ws.DeviceError, match=r"cannot allocate \d+ bytes for .*out of memory"):
            ws.load(path)
        gc.collect()
    gpu.most_live = 2**63
    assert_same(ws.load(path), tensors)


@pytest.mark.parametrize("order", ["arrival", "file"])
def test_a_full_device_goes_on_as_tensors_are_dropped(gpu: FakeGpu, tmp_path: Path, order: str) -> None:
    tensors = blocks(20, 3 * MIB)  # most of them in two reads
    path = write_file(tmp_path / "m.safetensors", tensors)
    gpu.most_live = 5
    names = set()
    with ws.stream(path, order=order) as stream:
        for name, tensor in stream:
            assert bytes_of(tensor) == tensors[name].data
            names.add(name)
            del tensor
    assert names == set(tensors)


def test_one_refused_allocation_ends_nothing(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    for at in (2, 3, 5):
        gpu.allocations, gpu.out_of_memory_at = 0, at
        assert_same(ws.load(path), tensors)


def test_the_start_fills_the_window(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch_device, "_STEP_BYTES", MIB)
    path, tensors = model
    with ws.stream(path):
        padding = sum(gpu.allocated) - sum(len(tensor.data) for tensor in tensors.values())
        assert 0 <= padding < 16 * len(tensors)
    gpu.allocated.clear()
    monkeypatch.setattr(torch_device, "_BEGIN_BYTES", 7 * MIB)
    with ws.stream(path):
        assert 7 * MIB <= sum(gpu.allocated) < 13 * MIB


def test_while_a_graph_is_captured_nothing_is_loaded(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, _ = model
    mine = {"large.1": gpu.empty((3, MIB // 4), torch.float32), "norm.1": gpu.empty((512,), torch.float16)}
    message = "a CUDA graph is being captured on the current stream: load before or after it"
    gpu.captures, gpu.allocations = True, 0
    for settings in ({}, {"dtype": "float32"}, {"into": mine}):
        with pytest.raises(ws.ConfigError, match=message):
            ws.stream(path, **settings)
    assert gpu.allocations == 0
    gpu.captures = False
    with ws.stream(path, dtype="float32") as stream:  # all of its memory is there; the cast would be captured
        gpu.captures = True
        with pytest.raises(ws.ConfigError, match=message):
            next(stream)


def test_casts_on_another_stream_end_before_their_source_goes(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    with ws.stream(path, dtype="float32") as stream:
        assert len(list(stream)) == len(tensors)
    assert gpu.synchronizations == 0
    with ws.stream(path, dtype="float32") as stream:
        gpu.use_another_stream()
        batches = sum(1 for _ in iter(lambda: stream._take(), []))
        assert gpu.synchronizations >= batches > 0
    gpu.synchronizations = 0
    with ws.stream(path) as stream:  # the caller's to order
        gpu.use_another_stream()
        assert len(list(stream)) == len(tensors)
    assert gpu.synchronizations == 0


def test_memory_that_comes_after_a_close_is_let_go(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(20, 3 * MIB))
    stream = ws.stream(path, device_limit="12MiB")
    next(stream), next(stream)
    empty, closing = gpu.empty, threading.Thread(target=stream.close)

    def close_meanwhile(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        if closing.ident is None:
            closing.start()
            closing.join()
        return empty(shape, dtype)

    gpu.empty = close_meanwhile  # type: ignore[method-assign]
    with pytest.raises(ws.ClosedError):
        list(stream)
    assert closing.ident is not None
    gc.collect()
    assert gpu.live == 0


def test_a_close_of_another_thread_is_said_as_such(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(300, 8192) | {"large": raw("U8", (3 * MIB,), 1)})
    ends = set()
    for delay in range(40):
        stream = ws.stream(path)
        closing = threading.Timer(delay * 0.0005, stream.close)
        closing.start()
        with suppress(ws.ClosedError):  # and nothing else
            ends.add(len(list(stream)))
        closing.join()
    assert ends <= {301}
    gc.collect()
    assert gpu.live == 0


@pytest.mark.parametrize("mode", ["keep", "drop", "half-way", "into"])
def test_a_program_that_simply_ends(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], mode: str) -> None:
    ended = run(
        """
        import atexit, pytest, torch

        @atexit.register  # before the library's own, so it runs after that
        def check():
            assert gpu.counts().registered_bytes == 0, gpu.counts().registered_bytes
            assert gpu.library.fake_violation() == b"", gpu.library.fake_violation()
            print("unpinned")

        import weightstream as ws
        from fake_gpu import fake_gpu
        from weightstream import _core

        path, mode = sys.argv[1:]
        context = fake_gpu(pytest.MonkeyPatch())
        gpu = context.__enter__()

        if mode == "into":
            mine = {f"norm.{i}": gpu.empty((512,), torch.float16) for i in range(40)}
            mine["large.1"] = gpu.empty((3, (1 << 20) // 4), torch.float32)
            weights = ws.load(path, into=mine)
        elif mode == "half-way":
            stream = ws.stream(path, device_limit="7MiB")
            kept = next(stream)
        else:
            weights = ws.load(path)
        assert _core.pinned_bytes() > 0
        if mode == "drop":
            del weights
        print("ends")
        """,
        model[0],
        mode,
        FAKE_GPU_LIBRARY=str(library_path()),
    )
    assert ended == "ends\nunpinned\n"


@pytest.mark.parametrize("function", ["cuMemcpyHtoDAsync_v2", "cuEventRecord", "cuEventCreate"])
def test_a_failed_call_is_an_error_and_the_next_stream_works(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], function: str
) -> None:
    path, tensors = model
    ws.release_pinned_memory()
    gpu.fail(function, 1, OUT_OF_MEMORY)
    with pytest.raises(ws.DeviceError, match=f"(?s)cuda:0.*{function}.*out of memory"):
        ws.load(path)
    gpu.fail("", 0, 0)
    assert_same(ws.load(path), tensors)


def test_closing_on_the_way_frees_everything(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    for count in (0, 1, 3):
        stream = ws.stream(model[0], device_limit="7MiB")
        for _ in range(count):
            next(stream)
        stream.close()
        assert gpu.counts().streams == 0
        with pytest.raises(ws.ClosedError):
            next(stream)


def test_streams_side_by_side(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    # Each by turns: a slot that waits for its consumer would stop the other.
    first = ws.stream(path, memory_limit="9MiB", device_limit="1MiB")
    second = ws.stream(path, memory_limit="9MiB", device_limit="1MiB")
    next(first)
    assert_same(second, tensors)
    assert len(dict(first)) == len(tensors) - 1


def test_memory_that_cannot_be_pinned_is_used_as_it_is(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], caplog: pytest.LogCaptureFixture
) -> None:
    path, tensors = model
    ws.release_pinned_memory()
    gpu.library.fake_set_register_limit(ctypes.c_uint64(0))
    with ws.stream(path, memory_limit="17MiB", device_limit="7MiB") as stream:
        assert_same(stream, tensors)
        stats = stream.stats
    assert "not pinned" in stats.reasons["cuda:0"]
    assert "cuMemHostRegister_v2 failed with CUDA_ERROR_OUT_OF_MEMORY" in stats.reasons["cuda:0"]
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [stats.reasons["cuda:0"]]
    assert stats.peak_host_bytes <= 17 * MIB
    assert gpu.counts().pageable_copies > 0
    assert _core.pinned_bytes() == 0
    gpu.library.fake_set_register_limit(ctypes.c_uint64(2**64 - 1))
    ws.release_pinned_memory()
    with ws.stream(path) as stream:
        assert_same(stream, tensors)
        assert list(stream.stats.reasons) == [str(path)]
    assert _core.pinned_bytes() > 0


def test_a_device_that_shares_the_hosts_memory_gets_few_slots(gpu: FakeGpu, tmp_path: Path) -> None:
    """By default 256 MiB, and what is asked for otherwise."""
    gpu.library.fake_set_integrated(1)
    size = 320 * MIB
    header = json.dumps(
        {
            f"t{i}": {"dtype": "U8", "shape": [size // 2], "data_offsets": [i * size // 2, (i + 1) * size // 2]}
            for i in range(2)
        }
    ).encode()
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    for limit, slots in ((None, 31), ("270MiB", 33)):  # of 8 MiB and a page
        gpu.library.fake_pause(1)  # no copy ends: slots are taken until there are no more
        with ws.stream(path, memory_limit=limit) as stream:
            _wait_for_reads(stream, slots)
            assert stream.stats.peak_host_bytes == slots * (8 * MIB + 4096)
            gpu.library.fake_pause(0)
        wait_until(lambda: gpu.counts().registered_bytes == 0 or ws.release_pinned_memory())  # the copies have ended


def _wait_for_reads(stream: ws.TensorStream, reads: int) -> None:
    wait_until(lambda: stream.stats.reads >= reads)


def test_pinned_memory_is_given_back_on_request(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    ws.load(model[0])
    assert gpu.counts().registered_bytes > 0
    ws.release_pinned_memory()
    wait_until(lambda: gpu.counts().registered_bytes == 0)
