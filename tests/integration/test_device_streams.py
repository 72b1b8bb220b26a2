"""Streams to a GPU, through the fake driver.

Every dtype and shape, limits, order, the caller's own tensors, casts, and what happens when the device or its memory
fails.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weightstream as ws
from checkpoints import DTYPES, Raw, assert_same, blocks, bytes_of, raw, write_file
from fake_gpu import FakeGpu, fake_gpu
from processes import wait_until

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


@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("limit", ["1MiB", "7MiB"])
def test_limits(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], order: str, limit: str) -> None:
    path, tensors = model
    with ws.stream(path, order=order, device_limit=limit, memory_limit="9MiB") as stream:
        got = []
        for name, tensor in stream:
            assert bytes_of(tensor) == tensors[name].data
            got.append(name)
        stats = stream.stats
    assert sorted(got) == sorted(tensors)
    if order == "file":
        assert got == list(tensors)
    assert stats.peak_host_bytes <= 9 * MIB
    assert stats.peak_device_bytes <= 10 * MIB  # the largest, and what shares its last read


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


class TestInto:
    def test_brings_the_bytes_where_the_caller_wants_them(
        self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]
    ) -> None:
        path, tensors = model
        gpu.kernel_us = 300
        mine = {name: gpu.empty(*_like(tensor)) for name, tensor in ws.load(path).items()}
        at = {name: tensor.data_ptr() for name, tensor in mine.items()}
        allocations = gpu.allocations
        given = ws.load(path, into=mine)
        assert_same(mine, tensors)
        assert {name: tensor.data_ptr() for name, tensor in given.items()} == at
        assert gpu.allocations <= allocations + 1  # the empty one is nobody's

    def test_some_of_it(self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
        path, tensors = model
        mine = {name: torch.zeros(tensors[name].shape, dtype=torch.float16) for name in ("norm.1", "norm.7")}
        with ws.stream(path, into=mine) as stream:
            assert sorted(name for name, _ in stream) == sorted(mine)
        assert_same(mine, {name: tensors[name] for name in mine})

    @pytest.mark.parametrize(
        ("tensor", "what"),
        [
            (torch.zeros(512), "float32"),
            (torch.zeros(511, dtype=torch.float16), "511"),
            (torch.zeros((512, 2), dtype=torch.float16)[:, 0], "not contiguous"),
            (torch.zeros(512, dtype=torch.float16, device="meta"), "on meta"),
            ("text", r"not a torch\.Tensor"),
        ],
    )
    def test_tensors_that_cannot_hold_it(
        self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], tensor: torch.Tensor, what: str
    ) -> None:
        with pytest.raises(ws.ConfigError, match=what) as caught:
            ws.load(model[0], into={"norm.1": tensor}, device="cpu")
        assert "norm.1" in str(caught.value)
        with pytest.raises(ws.ConfigError, match=r"norm\.2"):
            ws.load(model[0], into={"norm.1": torch.zeros(512, dtype=torch.float16)}, names=["norm.1", "norm.2"])


def _like(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype


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
    for at in (1, 2, 4):
        gpu.allocations, gpu.out_of_memory_at = 0, at
        with pytest.raises(ws.DeviceError, match=r"cannot allocate \d+ bytes for .*out of memory"):
            ws.load(path)
    gpu.out_of_memory_at = 0
    assert_same(ws.load(path), tensors)


@pytest.mark.parametrize("function", ["cuMemcpyHtoDAsync_v2", "cuEventRecord", "cuMemHostRegister_v2", "cuEventCreate"])
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


def test_pinned_memory_is_given_back_on_request(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    ws.load(model[0])
    assert gpu.counts().registered_bytes > 0
    ws.release_pinned_memory()
    wait_until(lambda: gpu.counts().registered_bytes == 0)
