"""PyTorch tensors on accelerators that the core does not know (XPU, MPS, NPU, ...): torch's own non-blocking copies.

A copy is queued as soon as a tensor is in host memory, and the tensor is handed out when it has ended; meanwhile the
next ones are read. Host memory that copies still read is kept, up to `_MOST_QUEUED_BYTES` or one tensor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from .._core import Stream as CoreStream
from .torch_dtypes import from_capsule, view

_MOST_QUEUED_BYTES = 256 << 20

# Waits for the end of a copy.
Wait = Callable[[], Any]


def queue_copy(tensor: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, Wait]:
    """Queues a copy on the device's current stream. `tensor` has to live until the wait is over."""
    with _current(device):
        copied = tensor.to(device, non_blocking=True)
        event = torch.Event(device)
        event.record()
    return copied, event.synchronize


def can_queue(device: torch.device) -> bool:
    """Whether this torch has events for the device; some have none, and then copies have to be waited for at once."""
    try:
        with _current(device):
            event = torch.Event(device)
            event.record()
            event.synchronize()
    except (RuntimeError, NotImplementedError, TypeError):
        return False
    return True


def _current(device: torch.device) -> AbstractContextManager[Any]:
    # An event is recorded on the current device, whatever it was made for: "xpu:1" must be that one.
    guard = getattr(getattr(torch, device.type, None), "device", None)
    return nullcontext() if guard is None or device.index is None else guard(device)


class QueuedCopies:
    """Takes the tensors of one stream."""

    def __init__(self, copy: Callable[[str, torch.Tensor], tuple[torch.Tensor, Wait]]) -> None:
        self._copy = copy
        self._queue: deque[tuple[str, torch.Tensor, torch.Tensor, Wait]] = deque()  # with what is copied from
        self._queued_bytes = 0
        self._ended = False

    def take(self, stream: CoreStream) -> list[tuple[str, torch.Tensor]]:
        """Waits for the next tensors that are on the device; empty at the end."""
        while not self._ended and (not self._queue or self._queued_bytes < _MOST_QUEUED_BYTES):
            batch = stream.next_dlpack(wait=not self._queue)
            if batch is None:
                break
            self._ended = not batch
            for name, capsule, dtype in batch:
                host = view(from_capsule(capsule), dtype)
                copied, wait = self._copy(name, host)
                self._queue.append((name, copied, host, wait))
                self._queued_bytes += host.nbytes
        if not self._queue:
            return []
        name, copied, host, wait = self._queue.popleft()
        wait()
        self._queued_bytes -= host.nbytes
        return [(name, copied)]
