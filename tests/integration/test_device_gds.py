"""Streams by GPUDirect Storage, through the fake driver and its cuFile.

What is read straight to the device, what goes another way, and what is said of it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weightstream as ws
from checkpoints import DTYPES, Raw, assert_same, blocks, bytes_of, raw, write_file
from fake_gpu import FakeGpu, fake_gpu, library_path
from processes import core_threads, run
from weightstream import _core

MIB = 1 << 20
IO_ERROR = 5
REFUSED = 5008


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:
        yield made
        gc.collect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """10 MiB: large tensors, small ones of every dtype between them, and one without elements."""
    tensors = {"large.0": raw("BF16", (MIB, 3), 1), "empty": raw("F32", (0, 7), 2), "scalar": raw("I64", (), 3)}
    for i, dtype in enumerate(DTYPES):
        tensors[f"small.{dtype}"] = raw(dtype, (4, 64), 10 + i)
    for i in range(40):
        tensors[f"norm.{i}"] = raw("F16", (512,), 50 + i)
    tensors["large.1"] = raw("U8", (4 * MIB + 1,), 5)
    path = write_file(tmp_path_factory.mktemp("gds") / "model.safetensors", tensors)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError:
        pytest.skip("the filesystem refuses O_DIRECT")
    return path, tensors


@pytest.mark.parametrize("order", ["arrival", "file"])
@pytest.mark.parametrize("limit", ["1MiB", "2GiB"])
def test_every_byte_is_read_straight_to_the_device(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], order: str, limit: str
) -> None:
    path, tensors = model
    gpu.kernel_us = 300
    with ws.stream(path, backend="gds", order=order, device_limit=limit) as stream:
        assert_same(stream, tensors)
        stats = stream.stats
    assert stats.readers == {"gds": sum(len(tensor.data) for tensor in tensors.values())}
    assert stats.bytes_read == stats.bytes_total
    assert stats.peak_host_bytes == 0
    assert stats.reasons == {str(path): 'backend="gds" was asked for: cuFile reads to cuda:0 by nvidia-fs 2.17'}
    assert gpu.counts().copies == 0
    assert _core.pinned_bytes() == 0


def test_small_tensors_are_read_together(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    assert_same(ws.load(path, backend="gds"), tensors)
    assert 0 < gpu.counts().cufile_reads < 30


def test_data_at_any_offset(gpu: FakeGpu, tmp_path: Path) -> None:
    tensors = {"a": raw("F32", (MIB,), 1), "b": raw("F64", (3,), 2), "c": raw("BF16", (700_001,), 3)}
    path = write_file(tmp_path / "m.safetensors", tensors, misalign=1)
    gpu.library.fake_set_cufile(300_001, 0, 2)  # and it falls short
    with ws.stream(path, backend="gds") as stream:
        assert_same(stream, tensors)
        assert stream.stats.retries > 10


def test_into_and_casts(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    mine = {"large.0": gpu.empty((MIB, 3), torch.bfloat16), "norm.1": gpu.empty((512,), torch.float16)}
    got = ws.load(path, backend="gds", into=mine)
    assert got["large.0"] is mine["large.0"]
    assert_same(mine, {name: tensors[name] for name in mine})
    assert gpu.counts().cufile_reads > 0
    cast = ws.load(path, backend="gds", dtype="float32", names=["norm.1", "large.0"])
    assert bytes_of(cast["norm.1"]) == bytes_of(mine["norm.1"].to(torch.float32))


def test_single_reads_and_slices_go_through_host_memory(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], caplog: pytest.LogCaptureFixture
) -> None:
    path, tensors = model
    with caplog.at_level(logging.WARNING), ws.open(path, backend="gds") as checkpoint:
        assert bytes_of(checkpoint.get_tensor("norm.1")) == tensors["norm.1"].data
        assert bytes_of(checkpoint.get_slice("large.0")[1:2]) == tensors["large.0"].data[6:12]
        assert gpu.counts().cufile_reads == 0
        assert bytes_of(checkpoint.get_tensor("large.1")) == tensors["large.1"].data
        assert gpu.counts().cufile_reads > 1
    assert not caplog.records


def test_what_is_refused_is_read_as_by_auto_and_said_once(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write_file(tmp_path / "1.safetensors", {"a": raw("U8", (3 * MIB,), 1)})
    second = write_file(tmp_path / "2.safetensors", {"b": raw("U8", (3 * MIB + 5,), 2)})
    monkeypatch.setenv("WEIGHTSTREAM_BACKEND", "gds")
    gpu.fail("cuFileHandleRegister", 2, REFUSED)
    with caplog.at_level(logging.INFO, "weightstream"), ws.stream([first, second]) as stream:
        assert {name: len(bytes_of(tensor)) for name, tensor in stream} == {"a": 3 * MIB, "b": 3 * MIB + 5}
        stats = stream.stats
    assert stats.readers["gds"] == 3 * MIB
    assert stats.bytes == 6 * MIB + 5
    why = (
        "gds was asked for, but cuFileHandleRegister failed with CU_FILE_IO_NOT_SUPPORTED (5008): "
        "this file, or its filesystem, does not support it"
    )
    assert stats.reasons[str(first)].startswith('backend="gds" was asked for: cuFile')
    assert stats.reasons[str(second)].startswith(why + ": ")
    assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", why)]


def test_to_host_memory_it_is_auto(model: tuple[Path, dict[str, Raw]]) -> None:
    path, tensors = model
    for framework in ("pt", "numpy"):
        with ws.stream(path, backend="gds", framework=framework, device="cpu") as stream:
            assert len(list(stream)) == len(tensors)
            assert "gds" not in stream.stats.readers
            assert stream.stats.reasons[str(path)].startswith(
                "gds was asked for, but these reads land in host memory: "
            )


@pytest.mark.parametrize(("status", "error"), [(IO_ERROR, ws.StorageError), (5009, ws.DeviceError)])
def test_a_failed_read_says_where_and_the_next_stream_works(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], status: int, error: type[ws.WeightstreamError]
) -> None:
    path, tensors = model
    for k in (1, 2, 5):
        gpu.fail("cuFileRead", k, status)
        with pytest.raises(error, match="cuFileRead") as raised:
            ws.load(path, backend="gds")
        assert raised.value.source == str(path)
        assert raised.value.range is not None
        assert raised.value.errno == (status if error is ws.StorageError else None)
        gpu.fail("", 0, 0)
        assert not core_threads()
        assert gpu.counts().cufile_files == 0
        assert_same(ws.load(path, backend="gds"), tensors)


def test_closing_on_the_way_frees_everything(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(8, 3 * MIB))
    gpu.library.fake_set_cufile(200_000, 300, 2)
    for count in (0, 1, 3):
        stream = ws.stream(path, backend="gds", device_limit="7MiB")
        for _ in range(count):
            next(stream)
        stream.close()
        assert not core_threads()
        assert gpu.counts().cufile_files == 0
        gc.collect()
        assert gpu.live == 0


def test_a_trace_has_reads_and_no_copies(gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], tmp_path: Path) -> None:
    with ws.stream(model[0], backend="gds", trace=tmp_path / "trace.json") as stream:
        list(stream)
    names = [event["name"] for event in json.loads((tmp_path / "trace.json").read_text())["traceEvents"]]
    assert "read" in names
    assert "copy" not in names


@pytest.mark.parametrize(
    ("library", "said"),
    [
        ("/nowhere/libcufile.so.0", "gds was asked for, but the cuFile library that was named cannot be loaded"),
        ("libcufile.so.0", "ConfigError: WEIGHTSTREAM_CUFILE_LIBRARY"),
    ],
)
def test_the_library_that_the_environment_names(
    gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], library: str, said: str
) -> None:
    printed = run(
        """
        import gc, logging, os, pytest
        import weightstream as ws
        from fake_gpu import fake_gpu

        logging.getLogger("weightstream").setLevel(logging.ERROR)
        path, library = sys.argv[1:]
        with fake_gpu(pytest.MonkeyPatch()):
            os.environ["WEIGHTSTREAM_CUFILE_LIBRARY"] = library
            try:
                stream = ws.stream(path, backend="gds")
                print(len(list(stream)), *stream.stats.reasons.values())
                del stream
            except ws.ConfigError as error:
                print("ConfigError:", error)
            gc.collect()
        """,
        model[0],
        library,
        FAKE_GPU_LIBRARY=str(library_path()),
    )
    assert said in printed
    if library.startswith("/"):
        assert printed.startswith(f"{len(model[1])} ")
