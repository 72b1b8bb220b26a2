"""Copies to accelerators that the core does not know, with copies that end late: order, host memory, errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import weightstream as ws
from checkpoints import assert_same, blocks, write_file
from processes import wait_until
from weightstream.frameworks import torch as torch_framework
from weightstream.frameworks import torch_queue

TENSORS = blocks(7, 1 << 20)


class LateCopies:
    """Copies that read their source when they are waited for, and not before."""

    def __init__(self) -> None:
        self.queued: list[weakref.ref[torch.Tensor]] = []
        self.most_under_way = 0
        self.under_way = 0
        self.fails_at = 0

    def queue(self, tensor: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Callable[[], Any]]:
        """See torch_queue.queue_copy."""
        assert device.type == "meta"
        self.queued.append(weakref.ref(tensor))
        if len(self.queued) == self.fails_at:
            raise RuntimeError("out of memory")
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        copied = torch.full_like(tensor, 0xCD)
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
