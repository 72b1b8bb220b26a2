"""Streams: what they yield and in which order, what they read, what they say, and how they end."""

from __future__ import annotations

import logging
import pickle
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, raw, write_file, write_shards, write_sparse
from processes import core_threads, wait_until

Saved = tuple[Path, dict[str, torch.Tensor]]
BACKENDS = ["auto", "pread", "uring", "mmap"]
MIB = 2**20
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture
def many(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    """More tensors than a batch has, small and large, in three files."""
    files = {
        f"{letter}.safetensors": {f"{letter}.{i}": raw("U8", (100 + 997 * i,), 1000 * n + i) for i in range(80)}
        for n, letter in enumerate("cab")
    }
    folder = write_shards(tmp_path / "many", files)
    return folder, {name: tensor for tensors in files.values() for name, tensor in tensors.items()}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ["arrival", "file"])
def test_every_tensor_comes_once(many: tuple[Path, dict[str, Raw]], backend: str, order: str) -> None:
    folder, tensors = many
    with ws.stream(folder, backend=backend, order=order, memory_limit="1MiB") as stream:
        pairs = list(stream)
    assert len(pairs) == len(tensors) == len(stream)
    assert_same(dict(pairs), tensors)
    in_file_order = sorted(tensors, key=lambda name: (name[0], int(name[2:])))
    if order == "file":
        assert [name for name, _ in pairs] == in_file_order
    assert list(ws.load(folder, backend=backend)) == in_file_order


def test_file_order_is_the_order_of_the_offsets(tmp_path: Path) -> None:
    tensors = {name: raw("F32", (64, 64), i) for i, name in enumerate(["z", "m", "a", "q"])}
    tensors["empty"] = raw("F32", (0,), 0)
    path = write_file(tmp_path / "m.safetensors", tensors)
    with ws.stream(path, order="file") as stream:
        assert [name for name, tensor in stream if tensor.numel()] == ["z", "m", "a", "q"]
    with ws.open(path) as checkpoint:
        assert [name for name in checkpoint if checkpoint[name].nbytes] == ["z", "m", "a", "q"]


def test_length_and_bytes(saved: Saved) -> None:
    path, tensors = saved
    with ws.stream(path) as stream:
        assert len(stream) == len(tensors)
        assert stream.nbytes == sum(tensor.nbytes for tensor in tensors.values())
        next(stream)
        assert len(stream) == len(tensors)  # in all, not what is left
    with ws.stream(path, names=["counts", "empty"]) as stream:
        assert (len(stream), stream.nbytes) == (2, tensors["counts"].nbytes)


def test_names(saved: Saved) -> None:
    path, tensors = saved
    assert set(ws.load(path, names=["step", "counts", "step"])) == {"step", "counts"}
    assert set(ws.load(path, names=iter(["step"]))) == {"step"}
    assert set(ws.load(path, names={"mask": 1})) == {"mask"}
    assert set(ws.load(path, names=lambda name: name.startswith("layers."))) == {n for n in tensors if "layers" in n}
    assert ws.load(path, names=[]) == {}
    assert ws.load(path, names=lambda name: False) == {}
    assert list(ws.stream(path, names=())) == []


def test_an_unknown_name_says_what_there_is(saved: Saved) -> None:
    with pytest.raises(ws.ConfigError, match=r"'layers\.0\.wieght'.*there is.*'layers\.0\.weight'"):
        ws.stream(saved[0], names=["step", "layers.0.wieght"])
    for odd in (7, None, b"step", "\ud800"):
        with pytest.raises(ws.ConfigError, match="which no source has"):
            ws.stream(saved[0], names=[odd])  # type: ignore[list-item]


def test_an_error_in_the_predicate_is_the_callers(saved: Saved) -> None:
    def broken(name: str) -> bool:
        raise ZeroDivisionError(name)

    with pytest.raises(ZeroDivisionError, match=r"^\S+$"):
        ws.stream(saved[0], names=broken)


@pytest.mark.parametrize("backend", ["pread", "uring"])
def test_only_what_is_named_is_read(tmp_path: Path, backend: str) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (MIB,)) for i in range(64)})
    with ws.stream(path, names=["t3", "t40", "t41"], backend=backend) as stream:
        assert {name for name, _ in stream} == {"t3", "t40", "t41"}
        # The tensors, and at either end of a stretch less than a block of 4 KiB.
        assert 3 * MIB <= stream.stats.bytes_read <= 3 * MIB + 2 * 2 * 4096
        assert stream.stats.peak_host_bytes <= 3 * MIB + 2 * 2 * 4096


def test_what_nobody_wants_is_not_read_at_all(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {"a": ("U8", (MIB,)), "empty": ("F32", (0, 3))})
    with ws.stream(path, names=["empty"]) as stream:
        assert [tensor.shape for _, tensor in stream] == [(0, 3)]
        assert (stream.stats.bytes_read, stream.stats.reads) == (0, 0)


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", {}, metadata={"format": "pt"})
    with ws.stream(path) as stream:
        assert list(stream) == []
        assert (len(stream), stream.nbytes, stream.stats.seconds >= 0) == (0, 0, True)


def test_stats(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (MIB,)) for i in range(8)})
    with ws.stream(path, backend="pread", memory_limit="4MiB") as stream:
        assert (stream.stats.tensors, stream.stats.bytes) == (0, 0)
        next(stream)
        after_one = stream.stats
        list(stream)
        stats = stream.stats
    assert 1 <= after_one.tensors <= 8
    assert after_one.bytes == after_one.tensors * MIB
    assert (stats.tensors, stats.bytes, stats.bytes_total) == (8, 8 * MIB, 8 * MIB)
    assert 8 * MIB <= stats.bytes_read <= path.stat().st_size
    assert stats.readers == {"pread": stats.bytes_read}
    assert stats.reasons == {str(path): 'backend="pread" was asked for: parallel pread'}
    assert stats.reads >= 2
    assert stats.retries == 0
    assert 0 < stats.first_tensor_seconds <= stats.seconds
    assert 0 <= stats.wait_storage_seconds <= stats.seconds
    assert 0 < stats.peak_host_bytes <= 4 * MIB
    assert stats.gigabytes_per_second == pytest.approx(8 * MIB / stats.seconds / 1e9)
    assert stats.as_dict()["gigabytes_per_second"] == stats.gigabytes_per_second
    assert set(stats.as_dict()) == {*stats.__dataclass_fields__, "gigabytes_per_second"}
    assert stream.stats == stats  # it stands still afterwards
    with pytest.raises(AttributeError):
        stats.tensors = 9  # type: ignore[misc]


def test_waiting_for_the_consumer_is_told(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "m.safetensors", {f"t{i}": ("U8", (MIB,)) for i in range(8)})
    with ws.stream(path, backend="pread", memory_limit="2MiB") as stream:
        wait_until(lambda: stream.stats.wait_consumer_seconds > 0.01)
        list(stream)
        assert stream.stats.wait_consumer_seconds < stream.stats.seconds


def test_exhausted_stays_exhausted(saved: Saved) -> None:
    stream = ws.stream(saved[0])
    assert dict(stream)
    assert stream.closed
    assert core_threads() == []
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(stream)
    assert list(stream) == []
    stream.close()
    assert list(stream) == []


def test_use_after_close(saved: Saved, no_leaks: Callable[[], None]) -> None:
    stream = ws.stream(saved[0])
    name, tensor = next(stream)
    assert not stream.closed
    stream.close()
    stream.close()
    no_leaks()  # descriptors included, though the stream object lives
    assert stream.closed
    for _ in range(2):
        with pytest.raises(ws.ClosedError, match="closed"):
            next(stream)
    assert torch.equal(tensor, saved[1][name])
    assert len(stream) == len(saved[1])
    assert stream.stats.bytes_total == stream.nbytes
    assert "closed" in repr(stream)


def test_the_context_closes(saved: Saved, no_leaks: Callable[[], None]) -> None:
    with ws.stream(saved[0]) as stream:
        assert iter(stream) is stream
        next(stream)
    assert stream.closed
    no_leaks()
    with pytest.raises(ZeroDivisionError), ws.stream(saved[0]) as stream:
        raise ZeroDivisionError
    assert stream.closed


def test_the_checkpoint_of_a_stream_stays_of_use(saved: Saved, no_leaks: Callable[[], None]) -> None:
    path, tensors = saved
    with ws.stream(path) as stream:
        assert list(stream.checkpoint) == list(ws.load(path))
        list(stream)
    assert torch.equal(stream.checkpoint.get_tensor("step"), tensors["step"])
    no_leaks()


def test_a_dropped_stream_is_gone(saved: Saved) -> None:
    stream = ws.stream(saved[0])
    next(stream)
    gone = weakref.ref(stream)
    del stream
    assert gone() is None  # at once: nothing holds it in a cycle
    assert core_threads() == []


def test_pickling_says_why_not(saved: Saved) -> None:
    with (
        ws.stream(saved[0]) as stream,
        pytest.raises(TypeError, match="a TensorStream cannot be pickled: it is running"),
    ):
        pickle.dumps(stream)


def test_repr(saved: Saved) -> None:
    with ws.stream(saved[0]) as stream:
        assert repr(stream) == f"<TensorStream open: 0 of {len(saved[1])} tensors, 0 bytes>"
        list(stream)
    assert repr(stream) == f"<TensorStream closed: {len(stream)} of {len(stream)} tensors, {stream.nbytes} bytes>"


def test_progress_is_fed_and_closed(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Recorder:
        def __init__(self, nbytes: int, tensors: int, description: str) -> None:
            seen.append((nbytes, tensors, description))

        def update(self, nbytes: int, tensors: int) -> None:
            seen.append((nbytes, tensors))

        def close(self) -> None:
            seen.append("closed")

    monkeypatch.setattr("weightstream._progress.Progress", Recorder)
    with ws.stream(saved[0], progress=True) as stream:
        list(stream)
    assert seen[0] == (stream.nbytes, len(stream), "model.safetensors")
    assert seen[1] < (stream.nbytes, len(stream) + 1)
    assert seen[-2:] == [(stream.nbytes, len(stream)), "closed"]
    seen.clear()
    ws.load(saved[0])
    assert seen == []


def test_what_the_core_says_reaches_the_logger(saved: Saved, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="weightstream"):
        ws.load(saved[0], backend="pread")
    assert [(r.name, r.levelname, r.getMessage()) for r in caplog.records] == [
        ("weightstream", "DEBUG", f'{saved[0]}: backend="pread" was asked for: parallel pread')
    ]
    caplog.clear()
    ws.load(saved[0])
    assert [r for r in caplog.records if r.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu"), torch.device("cpu", 0)])
def test_the_cpu_by_any_name(saved: Saved, device: Any) -> None:
    path, tensors = saved
    weights = ws.load(path, device=device)
    assert all(weights[name].device.type == "cpu" and torch.equal(weights[name], tensors[name]) for name in tensors)


def test_another_device_by_its_own_copy(saved: Saved) -> None:
    path, tensors = saved
    weights = ws.load(path, device="meta")
    assert {name: (tensor.device.type, tensor.shape, tensor.dtype) for name, tensor in weights.items()} == {
        name: ("meta", tensor.shape, tensor.dtype) for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("device", ["cuda:99", "mps", "xpu:99"])
def test_a_device_that_is_not_there(saved: Saved, device: str) -> None:
    with pytest.raises(ws.DeviceError, match=f"device {device}.* cannot be used"):
        ws.stream(saved[0], device=device)


@pytest.mark.parametrize(
    "device", ["gpu", "cpu:", "²", "cuda:x", 1.5, {}, True, 10**30, -7, 256, "256", "cuda:256", "cuda:200"]
)
def test_what_is_no_device(saved: Saved, device: Any) -> None:
    with pytest.raises(ws.ConfigError, match=f"^device={re.escape(repr(device))}") as caught:
        ws.stream(saved[0], device=device)
    assert "\n" not in str(caught.value)


def test_an_accelerator_by_its_number(saved: Saved) -> None:
    if torch.accelerator.is_available():
        assert all(tensor.device.index == 0 for _, tensor in ws.stream(saved[0], device=0))
        return
    for index in (0, 3):
        with pytest.raises(ws.DeviceError) as by_name:
            ws.stream(saved[0], device=f"cuda:{index}")
        for device in (index, str(index), torch.device("cuda", index)):
            with pytest.raises(ws.DeviceError) as caught:
                ws.stream(saved[0], device=device)
            assert str(caught.value) == str(by_name.value)


def test_numpy_is_on_the_cpu_only(saved: Saved) -> None:
    with pytest.raises(ws.ConfigError, match="on the CPU only, not on 'cuda:0'"):
        ws.stream(saved[0], framework="numpy", device="cuda:0")
    ws.load(saved[0], framework="numpy", device="cpu", names=["step"])


def test_a_failed_copy_to_the_device_is_a_device_error(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory\nmore")

    with ws.stream(saved[0], device="meta") as stream:
        monkeypatch.setattr(torch.Tensor, "to", fail)
        with pytest.raises(ws.DeviceError, match=r"cannot copy tensor '.*' \(\d+ bytes\) to meta: out of memory$"):
            next(stream)
        assert stream.closed
    assert core_threads() == []


@pytest.mark.parametrize(("framework", "package"), [("pt", "torch"), ("numpy", "numpy")])
def test_a_missing_framework_is_named(
    saved: Saved, framework: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"weightstream.frameworks.{package}", raising=False)
    with pytest.raises(ws.ConfigError, match=f"needs the package {package}, which is not installed"):
        ws.stream(saved[0], framework=framework)


def test_one_thread_for_each_place_in_flight_at_most(tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(4, MIB))
    with ws.stream(path, backend="pread", concurrency=3, memory_limit="1MiB") as stream:
        assert 1 <= len(core_threads()) <= 3
        assert_same(stream, blocks(4, MIB))
