"""PyTorch tensors on a GPU: memory of torch's own allocator, which the core copies into while it reads.

The core asks for memory for the tensors that come next; it is allocated here, on the current stream, and the copies
wait on the device for whatever that stream had queued by then. A tensor is handed out when its copy has ended, so it
may be used on any stream at once. What holds from then on is what holds for every tensor of torch: one that is used on
another stream than the one it was allocated on (the current one in the thread that starts the stream, and then in the
one that iterates) has to live until that use is over, or be told so by ``Tensor.record_stream``. Small tensors share an
allocation, of which ``record_stream`` knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .._core import Device as CoreDevice
from .._core import Stream as CoreStream
from .._errors import ConfigError, DeviceError
from .torch_dtypes import from_capsule, torch_dtype, view

# Device memory that is allocated at a time, before the next look at what is ready.
_STEP_BYTES = 256 << 20
# And before the call that starts a stream returns.
_BEGIN_BYTES = 1 << 30

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

    def synchronize(self) -> None:
        """Waits for all that is queued on that stream.

        Raises:
            DeviceError: the device failed.

        """
        try:
            torch.cuda.current_stream(self.device).synchronize()
        except RuntimeError as error:
            raise DeviceError(f"{self.device} failed: {str(error).splitlines()[0]}") from error

    def capturing(self) -> bool:
        """Whether a CUDA graph is being captured on that stream: what is queued does not run then."""
        with torch.cuda.device(self.device):
            return bool(torch.cuda.is_current_stream_capturing())


def gpu_memory(device: torch.device) -> GpuMemory | None:
    """The memory of a device that the core can copy to; None for any other."""
    return GpuMemory(device) if device.type == "cuda" else None


class DeviceStreaming:
    """Takes the tensors of one stream that goes to a GPU."""

    def __init__(self, memory: GpuMemory, stream: CoreStream) -> None:
        self._memory = memory
        self._stream = stream
        self._allocated_on: set[int] = set()  # streams of the device

    def begin(self) -> None:
        """Gives the stream the memory that it begins with: reading starts."""
        nbytes = 0
        while nbytes < _BEGIN_BYTES and (more := self._top_up()):
            nbytes += more

    def begin_into(self, into: Mapping[str, torch.Tensor]) -> None:
        """Gives the stream the caller's memory instead, all of it."""
        self._check_not_capturing()
        due = self._stream.due(2**63)
        # What a caller's tensor has may be exchanged meanwhile (`parameter.data = other`), and freed with it.
        tensors = [into[name].detach() for _, name, _, _ in due if name is not None]
        self._provide([tensor.untyped_storage() for tensor in tensors], [tensor.data_ptr() for tensor in tensors])

    def take(self) -> list[tuple[str, torch.Tensor]]:
        """Waits for the next ready tensors; empty at the end."""
        while True:
            more = self._top_up()
            batch = self._stream.next_device(wait=more == 0)
            if batch is not None:
                # Small tensors come by the thousand: no call for one that crossed as what it is.
                return [
                    (
                        name,
                        from_capsule(part)
                        if part is not None and dtype is None
                        else self._other(memory, part, dtype, shape),
                    )
                    for name, memory, part, dtype, shape in batch
                ]

    def take_changed(self, change: Callable[[str, torch.Tensor], torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
        """As take(), of tensors that `change` makes of those on the current stream."""
        tensors = self.take()
        self._check_not_capturing()
        try:
            return [(name, change(name, tensor)) for name, tensor in tensors]
        finally:
            # The allocator may give the memory of a tensor that is dropped to the stream that it was allocated on at
            # once, which knows nothing of what another one still reads.
            if self._allocated_on - {self._memory.current_stream()}:
                self._memory.synchronize()

    def _top_up(self) -> int:
        """Allocates what is due, about a step of it, and returns its bytes; 0 if none is, or there is no room now."""
        due = self._stream.due(_STEP_BYTES)
        if not due:
            return 0
        self._check_not_capturing()
        memory: list[torch.Tensor] = []
        provided = 0
        for nbytes, name, dtype, shape in due:
            try:
                memory.append(self._empty(nbytes, dtype, shape))
            except RuntimeError as error:
                # Tensors that are handed out meanwhile may be dropped, which makes room.
                if isinstance(error, torch.cuda.OutOfMemoryError) and (memory or self._stream.outstanding()):
                    break
                what = "small tensors" if name is None else f"tensor {name!r}"
                reason = str(error).splitlines()[0]
                raise DeviceError(
                    f"cannot allocate {nbytes} bytes for {what} on {self._memory.device}: {reason}"
                ) from error
            provided += nbytes
        if memory:
            self._provide(memory, [tensor.data_ptr() for tensor in memory])
        return provided

    def _provide(self, memory: list[Any], addresses: list[int]) -> None:
        stream = self._memory.current_stream()
        self._allocated_on.add(stream)
        self._stream.provide(memory, addresses, stream)

    def _check_not_capturing(self) -> None:
        if self._memory.capturing():
            raise ConfigError("a CUDA graph is being captured on the current stream: load before or after it")

    def _empty(self, nbytes: int, dtype: str | None, shape: tuple[int, ...] | None) -> torch.Tensor:
        if dtype is None or shape is None:
            return self._memory.empty((nbytes,), torch.uint8)
        return self._memory.empty(shape, torch_dtype(dtype))

    def _other(
        self, memory: torch.Tensor | None, part: Any, dtype: str | None, shape: tuple[int, ...] | None
    ) -> torch.Tensor:
        if memory is not None:
            return memory
        if part is not None:
            return view(from_capsule(part), dtype)
        return self._empty(0, dtype, shape)
