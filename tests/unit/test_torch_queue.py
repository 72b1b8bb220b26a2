"""Copies to accelerators that the core does not know, with copies that end late: order, host memory, errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import assert_same, blocks, bytes_of, raw, write_file
from processes import wait_until
from weightstream.frameworks import torch as torch_framework
from weightstream.frameworks import torch_queue

TENSORS = blocks(7, 1 << 20)


class LateCopies:
    """Copies that read their source when they are waited for, and not before."""

    def __init__(self) -> None:
        self.queued: list[weakref.ref[torch.Tensor]] = []
        self.dtypes: list[torch.dtype] = []
        self.most_under_way = 0
        self.under_way = 0
        self.fails_at = 0

    def queue(self, tensor: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Callable[[], Any]]:
        """See torch_queue.queue_copy."""
        assert device.type == "meta"
        self.queued.append(weakref.ref(tensor))
        self.dtypes.append(tensor.dtype)
        if len(self.queued) == self.fails_at:
            raise RuntimeError("out of memory")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        copied = torch.full((tensor.nbytes,), 0xCD, dtype=torch.uint8).view(tensor.dtype).view(tensor.shape)
        source = self.queued[-1]

        def wait() -> None:
            host = source()
            assert host is not None, "the host memory went before its copy ended"
            copied.copy_(host)
            self.under_way -= 1

        return copied, wait


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[LateCopies]:
    late = LateCopies()
    monkeypatch.setattr(torch_framework, "can_queue", lambda device: True)
    monkeypatch.setattr(torch_framework, "queue_copy", late.queue)
    yield late
    gc.collect()
    assert [reference for reference in late.queued if reference() is not None] == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_file(tmp_path / "m.safetensors", TENSORS)


def test_tensors_are_handed_out_when_their_copies_ended(copies: LateCopies, path: Path) -> None:
    with ws.stream(path, device="meta", order="file") as stream:
        got = list(stream)
    assert [name for name, _ in got] == list(TENSORS)
    assert_same(iter(got), TENSORS)
    assert copies.under_way == 0


def test_copies_queue_while_the_next_are_read_within_a_bound(
    copies: LateCopies, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_queue, "_MOST_QUEUED_BYTES", 3 << 20)
    with ws.stream(path, device="meta") as stream:
        first = next(stream)
        wait_until(lambda: stream.stats.bytes_read >= path.stat().st_size - 4096)  # all that is left is ready now
        assert_same(iter([first, *stream]), TENSORS)
    assert 1 < copies.most_under_way <= 4


def test_a_copy_that_fails_names_its_tensor(copies: LateCopies, path: Path) -> None:
    copies.fails_at = 3
    with pytest.raises(ws.DeviceError, match=r"'t\d+' \(1048576 bytes\) to meta: out of memory"):
        ws.load(path, device="meta")


def test_devices_without_events_are_waited_for(path: Path) -> None:
    loaded = ws.load(path, device="meta")  # the only other device of every torch
    assert {tensor.device.type for tensor in loaded.values()} == {"meta"}


def test_a_cast_is_of_what_was_copied(copies: LateCopies, tmp_path: Path) -> None:
    """On the device and not before: what is copied is what was read, and its copy has ended when it is cast."""
    tensors = {
        "f32": raw("F32", (300, 7), 1),
        "f64": raw("F64", (50,), 2),
        "bf16": raw("BF16", (40,), 3),
        "i32": raw("I32", (9,), 4),
        "f8": raw("F8_E4M3", (64,), 5),
        "empty": raw("F32", (0, 3), 6),
    }
    path = write_file(tmp_path / "m.safetensors", tensors)
    plain = ws.load(path)
    with ws.stream(path, device="meta", dtype="bfloat16", order="file") as stream:
        got = dict(stream)
    assert list(got) == list(tensors)
    for name, tensor in got.items():
        expected = plain[name].to(torch.bfloat16) if name in ("f32", "f64", "bf16", "empty") else plain[name]
        assert (tensor.dtype, tensor.shape) == (expected.dtype, expected.shape)
        assert bytes_of(tensor) == bytes_of(expected)
    assert copies.dtypes == [tensor.dtype for tensor in plain.values()]
    assert copies.under_way == 0


def test_a_cast_that_fails_names_its_tensor(
    copies: LateCopies, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_file(tmp_path / "m.safetensors", {"first": raw("F32", (8,), 1), "second": raw("F32", (8,), 2)})

    def out_of_memory(self: torch.Tensor, *args: Any) -> torch.Tensor:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.Tensor, "to", out_of_memory)
    with pytest.raises(ws.DeviceError, match=r"'first' \(32 bytes\) to meta: out of memory"):
        ws.load(path, device="meta", dtype="float16")


def test_events_are_of_the_device_that_is_copied_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch records an event on the current device: on another one it would say nothing of the copy."""
    current = 0
    recorded: list[int] = []

    @contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        nonlocal current
        before, current = current, wanted.index
        yield
        current = before

    class Event:
        def __init__(self, device: torch.device) -> None:
            pass

        def record(self) -> None:
            recorded.append(current)

        def synchronize(self) -> None:
            pass

    class Host:
        def to(self, device: torch.device, *, non_blocking: bool) -> str:
            assert non_blocking
            return f"on {device}"

    monkeypatch.setattr(torch.xpu, "device", device)
    monkeypatch.setattr(torch, "Event", Event)
    assert torch_queue.can_queue(torch.device("xpu:1"))
    copied, wait = torch_queue.queue_copy(Host(), torch.device("xpu:1"))  # type: ignore[arg-type]
    wait()
    assert (copied, recorded) == ("on xpu:1", [1, 1])
    torch_queue.queue_copy(Host(), torch.device("xpu"))  # type: ignore[arg-type]
    torch_queue.queue_copy(Host(), torch.device("mps"))  # type: ignore[arg-type]
    assert recorded == [1, 1, 0, 0]
