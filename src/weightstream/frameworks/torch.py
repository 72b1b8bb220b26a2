"""PyTorch tensors. Host memory crosses as DLPack, without a copy: one storage per tensor, of exactly its size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from .._config import Device
from .._core import Device as CoreDevice
from .._core import Stream as CoreStream
from .._errors import ConfigError, DeviceError
from . import Take
from .torch_device import DeviceStreaming, gpu_memory
from .torch_dtypes import from_capsule, tensor_like, view
from .torch_queue import QueuedCopies, Wait, can_queue, queue_copy

# What `dtype` casts; everything else (integers, quantised values) stays what it is.
_CAST = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def _device(device: Device) -> torch.device:
    if isinstance(device, bool):
        raise ConfigError(f"device={device!r} is not a device")
    try:
        index = int(device) if isinstance(device, str) and device.isdigit() else device
        made = _by_index(index) if isinstance(index, int) else torch.device(index)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ConfigError(f"device={device!r} is not a device that torch knows: {str(error).splitlines()[0]}") from None
    # torch keeps an index in eight bits and lets it wrap: "cuda:256" would be the first GPU.
    digits = str(device).rpartition(":")[2]
    if digits.isdecimal() and made.index != int(digits):
        raise ConfigError(f"device={device!r} is not a device that torch knows: its index is too large")
    return made


def _by_index(index: int) -> torch.device:
    try:
        return torch.device(index)
    except RuntimeError:
        # Without an accelerator torch does not say which one is missing; what it says of "cuda:0" holds for 0 as well.
        return torch.device("cuda", index)


def _cast_to(dtype: Any) -> torch.dtype:
    found = getattr(torch, dtype.removeprefix("torch."), None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype={dtype!r} is not a floating-point dtype of torch; give one such as 'bfloat16'")
    return found


def _has_memory(tensor: torch.Tensor) -> bool:
    try:
        return tensor.data_ptr() != 0
    except RuntimeError:  # a subclass that only stands for others, on other devices say
        return False


def _take_host(stream: CoreStream) -> list[tuple[str, torch.Tensor]]:
    return [(name, view(from_capsule(capsule), dtype)) for name, capsule, dtype in stream.next_dlpack()]


class TorchFramework:
    """Tensors of torch on one device.

    A GPU (of CUDA or HIP) is the core's business, see torch_device. Other devices get tensors by torch's own copy.
    """

    def __init__(self, device: Device, dtype: Any = None, into: Mapping[str, Any] | None = None) -> None:
        self._device = _device(device)
        self._dtype = None if dtype is None else _cast_to(dtype)
        self._into = into
        if self._device.type != "cpu":
            try:
                torch.empty(0, device=self._device)
            except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
                raise DeviceError(f"device {self._device} cannot be used: {str(error).splitlines()[0]}") from error
        self._gpu = gpu_memory(self._device)

    def target(self, device_limit: int) -> CoreDevice | None:
        """See Framework.target."""
        if self._gpu is None:
            return None
        # The caller's memory is there already, all of it.
        into = self._into is not None
        return self._gpu.target(2**63 if into else device_limit, packed=not into)

    def begin(self, stream: CoreStream) -> Take[torch.Tensor]:
        """See Framework.begin."""
        if self._gpu is not None and stream.on_device():
            return self._take_from_gpu(DeviceStreaming(self._gpu, stream))
        if self._into is not None:
            into = self._into
            return lambda: [(name, self._copy_to(into[name], name, tensor)) for name, tensor in _take_host(stream)]
        bring = self._bring(stream)
        if self._dtype is not None:
            return lambda: [(name, self._cast(name, tensor)) for name, tensor in bring()]
        return bring

    def _take_from_gpu(self, streaming: DeviceStreaming) -> Take[torch.Tensor]:
        if self._into is not None:
            into = self._into
            streaming.begin_into(into)
            return lambda: [(name, into[name]) for name, _ in streaming.take()]
        streaming.begin()
        return streaming.take if self._dtype is None else partial(streaming.take_changed, self._cast)

    def _bring(self, stream: CoreStream) -> Take[torch.Tensor]:
        """How tensors come to the device from host memory."""
        host = partial(_take_host, stream)
        if self._device.type == "cpu":
            return host
        if can_queue(self._device):
            return partial(QueuedCopies(self._queue_copy).take, stream)
        return lambda: [(name, self._at(name, tensor, self._to_device)) for name, tensor in host()]

    def _queue_copy(self, name: str, tensor: torch.Tensor) -> tuple[torch.Tensor, Wait]:
        waits: list[Wait] = []

        def queue(host: torch.Tensor) -> torch.Tensor:
            copied, wait = queue_copy(host, self._device)
            waits.append(wait)
            return copied

        return self._at(name, tensor, queue), waits[0]

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device)

    def _copy_to(self, target: torch.Tensor, name: str, tensor: torch.Tensor) -> torch.Tensor:
        # What torch tracks of it (a parameter's gradient, inference mode) is no reason not to write to it.
        with torch.inference_mode(target.is_inference()):
            self._at(name, tensor, target.detach().copy_)
        return target

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype not in _CAST:
            return tensor
        return self._at(name, tensor, lambda source: source.to(self._dtype))

    def _at(self, name: str, tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        try:
            return change(tensor)
        except RuntimeError as error:  # out of memory included
            reason = str(error).splitlines()[0]
            raise DeviceError(
                f"cannot copy tensor {name!r} ({tensor.nbytes} bytes) to {self._device}: {reason}"
            ) from error

    def check_into(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """See Framework.check_into."""
        assert self._into is not None
        tensor: Any = self._into[name]
        if not isinstance(tensor, torch.Tensor):
            raise ConfigError(f"into[{name!r}] is not a torch.Tensor")
        wanted = tensor_like(dtype, shape)
        problem: str | None = None
        if tensor.device != self.own_device():
            problem = f"is on {tensor.device}, and not on {self.own_device()}"
        elif (tensor.dtype, tuple(tensor.shape)) != wanted:
            problem = f"is {tensor.dtype} {tuple(tensor.shape)}; the checkpoint has {wanted[0]} {wanted[1]}"
        else:
            problem = self._unlike_bytes(tensor)
        if problem:
            raise ConfigError(f"into[{name!r}] {problem}")

    def _unlike_bytes(self, tensor: torch.Tensor) -> str | None:
        """Why the bytes of a file cannot be those of the tensor."""
        if tensor.layout != torch.strided:
            return f"has the layout {tensor.layout}, and not torch.strided"
        if not tensor.is_contiguous():
            return "is not contiguous"
        if tensor.is_conj() or tensor.is_neg():
            return "is a view that conjugates or negates; bring what it is a view of"
        if self._gpu is not None and tensor.numel() > 0 and not _has_memory(tensor):
            return "has no memory on the device"
        return None

    @property
    def by_the_core(self) -> bool:
        """Whether the core copies to the device, and to memory that the caller brings."""
        return self._gpu is not None

    def own_device(self) -> torch.device:
        """The device with its index: "cuda" alone is the current one."""
        return torch.empty(0, device=self._device).device

    def index(self, tensor: torch.Tensor, index: Any) -> torch.Tensor:
        """See Framework.index."""
        result = tensor[index]
        own = result.untyped_storage().nbytes() == result.nbytes and result.storage_offset() == 0
        if own and result.is_contiguous():
            return result
        return result.clone(memory_format=torch.contiguous_format)


# Where torch has just been imported, the code that makes tensors of memory is still on the disk. Once reads keep the
# disk busy, each fault on a page of it waits behind all of them: a first tensor that is there waits for its code.
torch.frombuffer(bytearray(1), dtype=torch.uint8)
