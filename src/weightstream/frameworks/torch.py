"""PyTorch tensors. Host memory crosses as DLPack, without a copy: one storage per tensor, of exactly its size."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.dlpack import from_dlpack

from .._config import Device
from .._core import Stream as CoreStream
from .._errors import ConfigError, DeviceError

# torch.utils.dlpack.from_dlpack looks at its argument first; a capsule can go straight to what it ends in.
_from_capsule = getattr(torch._C, "_from_dlpack", from_dlpack)

# Dtypes that cross as bytes and are viewed as what they are. F4 holds two elements in a byte, so its last dimension is
# halved; torch has no 6-bit dtype, so F6 stays what it is in the file: bytes, flat.
_VIEWS: dict[str, str | None] = {
    "F4": "float4_e2m1fn_x2",
    "F6_E2M3": None,
    "F6_E3M2": None,
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}


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


def _view(tensor: torch.Tensor, dtype: str) -> torch.Tensor:
    name = _VIEWS[dtype]
    if name is None:
        return tensor
    torch_dtype = getattr(torch, name, None)
    if torch_dtype is None:
        raise ConfigError(
            f"this torch ({torch.__version__}) has no dtype {name}, which {dtype} needs; install a newer one"
        )
    return tensor.view(torch_dtype)


class TorchFramework:
    """Tensors of torch on one device. Other devices than the CPU get them by torch's own copy, one at a time."""

    def __init__(self, device: Device) -> None:
        self._device = _device(device)
        self._on_cpu = self._device.type == "cpu"
        if not self._on_cpu:
            try:
                torch.empty(0, device=self._device)
            except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
                raise DeviceError(f"device {self._device} cannot be used: {str(error).splitlines()[0]}") from error

    def take(self, stream: CoreStream) -> list[tuple[str, torch.Tensor]]:
        """See Framework.take."""
        tensors = [
            (name, _from_capsule(capsule) if dtype is None else _view(_from_capsule(capsule), dtype))
            for name, capsule, dtype in stream.next_dlpack()
        ]
        if self._on_cpu:
            return tensors
        return [(name, self._to_device(name, tensor)) for name, tensor in tensors]

    def _to_device(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        try:
            return tensor.to(self._device)
        except RuntimeError as error:  # out of memory included
            reason = str(error).splitlines()[0]
            raise DeviceError(
                f"cannot copy tensor {name!r} ({tensor.nbytes} bytes) to {self._device}: {reason}"
            ) from error

    def index(self, tensor: torch.Tensor, index: Any) -> torch.Tensor:
        """See Framework.index."""
        result = tensor[index]
        own = result.untyped_storage().nbytes() == result.nbytes and result.storage_offset() == 0
        if own and result.is_contiguous():
            return result
        return result.clone(memory_format=torch.contiguous_format)
