"""What torch is asked about a GPU, with its CUDA calls replaced: the streams' own tests replace all of GpuMemory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import weightstream as ws
from weightstream.frameworks import torch_device
from weightstream.frameworks.torch_device import GpuMemory, gpu_memory


class Cuda:
    """The calls of torch.cuda, on a machine with four GPUs of which the third is current."""

    def __init__(self) -> None:
        self.current = 2
        self.capturing = {0}
        self.synchronized: list[torch.device] = []
        self.fails = False

    def current_device(self) -> int:
        """See torch.cuda."""
        return self.current

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        """See torch.cuda."""
        before, self.current = self.current, device.index
        yield
        self.current = before

    def is_current_stream_capturing(self) -> bool:
        """See torch.cuda."""
        return self.current in self.capturing

    def current_stream(self, device: torch.device) -> Any:
        """See torch.cuda."""
        cuda = self

        class Stream:
            cuda_stream = 0x7F00_0000_0000 + device.index

            def synchronize(self) -> None:
                if cuda.fails:
                    raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")
                cuda.synchronized.append(device)

        return Stream()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    calls = Cuda()
    for name in ("current_device", "device", "is_current_stream_capturing", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(calls, name))
    return calls


@pytest.mark.parametrize(("device", "index"), [("cuda", 2), ("cuda:0", 0), ("cuda:3", 3)])
def test_a_device_without_an_index_is_the_current_one(cuda: Cuda, device: str, index: int) -> None:
    memory = GpuMemory(torch.device(device))
    cuda.current = 1  # afterwards it stays what it was
    assert memory.device == torch.device("cuda", index)
    assert memory.current_stream() == 0x7F00_0000_0000 + index


@pytest.mark.parametrize("device", ["cpu", "meta", "xpu", "mps"])
def test_other_devices_have_none(device: str) -> None:
    assert gpu_memory(torch.device(device)) is None


@pytest.mark.parametrize(("hip", "vendor", "dlpack"), [(None, "cuda", 2), ("6.4", "hip", 10)])
def test_what_the_core_is_told(
    cuda: Cuda, monkeypatch: pytest.MonkeyPatch, hip: str | None, vendor: str, dlpack: int
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch_device, "CoreDevice", dict)
    told: Any = GpuMemory(torch.device("cuda:3")).target(77, packed=False)
    assert told == {"vendor": vendor, "ordinal": 3, "limit": 77, "packed": False, "dlpack": (dlpack, 3)}


def test_memory_is_of_the_device(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *shape, **how: (shape, how))
    made: Any = GpuMemory(torch.device("cuda:1")).empty((3, 4), torch.float16)
    assert made == (((3, 4),), {"dtype": torch.float16, "device": torch.device("cuda:1")})


def test_capturing_is_asked_of_the_device_itself(cuda: Cuda) -> None:
    assert GpuMemory(torch.device("cuda:0")).capturing()
    assert not GpuMemory(torch.device("cuda:1")).capturing()
    assert cuda.current == 2


def test_synchronizing_waits_for_its_current_stream(cuda: Cuda) -> None:
    memory = GpuMemory(torch.device("cuda:1"))
    memory.synchronize()
    assert cuda.synchronized == [torch.device("cuda:1")]
    cuda.fails = True
    with pytest.raises(ws.DeviceError, match=r"^cuda:1 failed: CUDA error: an illegal memory access was encountered$"):
        memory.synchronize()
