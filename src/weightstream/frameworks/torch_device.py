"""PyTorch tensors on a GPU: memory of torch's own allocator, which the core copies into while it reads.

The core asks for memory for the tensors that come next; it is allocated here, on the current stream, and the copies
wait on the device for whatever that stream had queued by then. A tensor is handed out when its copy has ended, so it
may be used on any stream at once. What holds from then on is what holds for every tensor of torch: one that is used on
another stream than the one it was allocated on (the current one of the thread that iterates) has to live until that use
is over, or be told so by ``Tensor.record_stream``. Small tensors share an allocation, of which ``record_stream`` knows
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .._core import Device as CoreDevice
from .._core import Stream as CoreStream
from .._errors import DeviceError
from .torch_dtypes import from_capsule, torch_dtype, view

# Device memory that is allocated at a time, before the next look at what is ready.
_STEP_BYTES = 256 << 20

_DLPACK_CUDA = 2
_DLPACK_ROCM = 10


class GpuMemory:
    """Memory of one GPU, by torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        index = torch.cuda.current_device() if device.index is None else device.index
        self.device = torch.device("cuda", index)

    def target(self, limit: int, *, packed: bool) -> CoreDevice:
        """What the core needs to know of it. `limit` in bytes, 0 for the default."""
        hip = torch.version.hip is not None
        return CoreDevice(
            vendor="hip" if hip else "cuda",
            ordinal=self.device.index,
            limit=limit,
            packed=packed,
            dlpack=(_DLPACK_ROCM if hip else _DLPACK_CUDA, self.device.index),
        )

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """An uninitialised tensor."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def current_stream(self) -> int:
        """The handle of the stream that memory is allocated on."""
        return int(torch.cuda.current_stream(self.device).cuda_stream)


def gpu_memory(device: torch.device) -> GpuMemory | None:
    """The memory of a device that the core can copy to; None for any other."""
    return GpuMemory(device) if device.type == "cuda" else None


class DeviceStreaming:
    """Takes the tensors of streams that go to a GPU."""

    def __init__(self, memory: GpuMemory) -> None:
        self._memory = memory

    def target(self, limit: int, *, packed: bool = True) -> CoreDevice:
        """See GpuMemory.target."""
        return self._memory.target(limit, packed=packed)

    def begin(self, stream: CoreStream, into: Mapping[str, torch.Tensor] | None) -> None:
        """Gives the stream the memory that it begins with, all of it where it is the caller's: reading starts."""
        self._top_up(stream, into)

    def take(self, stream: CoreStream) -> list[tuple[str, torch.Tensor]]:
        """Waits for the next ready tensors; empty at the end."""
        while True:
            more = self._top_up(stream, None)
            batch = stream.next_device(wait=not more)
            if batch is not None:
                return [(item[0], self._tensor(*item)) for item in batch]

    def _top_up(self, stream: CoreStream, into: Mapping[str, torch.Tensor] | None) -> bool:
        due = stream.due(_STEP_BYTES if into is None else 2**63)
        if not due:
            return False
        memory = []
        for nbytes, name, dtype, shape in due:
            if into is not None and name is not None:
                memory.append(into[name])
            else:
                memory.append(self._allocate(nbytes, name, dtype, shape))
        stream.provide(memory, [tensor.data_ptr() for tensor in memory], self._memory.current_stream())
        return True

    def _allocate(
        self, nbytes: int, name: str | None, dtype: str | None, shape: tuple[int, ...] | None
    ) -> torch.Tensor:
        try:
            if dtype is None or shape is None:
                return self._memory.empty((nbytes,), torch.uint8)
            return self._memory.empty(shape, torch_dtype(dtype))
        except RuntimeError as error:  # out of memory is one
            what = "small tensors" if name is None else f"tensor {name!r}"
            reason = str(error).splitlines()[0]
            raise DeviceError(
                f"cannot allocate {nbytes} bytes for {what} on {self._memory.device}: {reason}"
            ) from error

    def _tensor(
        self, name: str, memory: torch.Tensor | None, part: Any, dtype: str, shape: tuple[int, ...] | None
    ) -> torch.Tensor:
        if memory is not None:
            return memory
        if part is not None:
            return view(from_capsule(part), dtype)
        return self._allocate(0, name, dtype, shape)
