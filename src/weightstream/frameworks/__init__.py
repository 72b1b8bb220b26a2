"""From memory to the tensors of one framework. A framework's package is imported when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

from .._config import Device
from .._core import Device as CoreDevice
from .._core import Stream as CoreStream
from .._errors import ConfigError

_Tensor = TypeVar("_Tensor")
# Waits for the next ready tensors and makes them the framework's; empty at the end.
Take: TypeAlias = "Callable[[], list[tuple[str, _Tensor]]]"


class Framework(Protocol):
    """What a stream needs of a framework."""

    def target(self, device_limit: int) -> CoreDevice | None:
        """The device that the core copies to; None where tensors are made of host memory. 0 is the default limit."""
        ...

    def check_into(self, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        """Checks the caller's tensor for one of the checkpoint.

        Raises:
            ConfigError: it cannot hold that.

        """
        ...

    def begin(self, stream: CoreStream) -> Take[Any]:
        """Gives a stream that has just started what it needs, and returns what takes its tensors."""
        ...

    def index(self, tensor: Any, index: Any) -> Any:
        """`tensor[index]` with memory of its own, exactly as large as the result."""
        ...


def get(name: str, device: Device, dtype: Any = None, into: Mapping[str, Any] | None = None) -> Framework:
    """The framework called `name` ("pt" or "numpy"), with tensors on `device`.

    `dtype` is what floating-point tensors are cast to; `into` holds tensors that the caller brings.

    Raises:
        ConfigError: the package is not installed, or the framework has no such device.
        DeviceError: the device is not there.

    """
    try:
        if name == "pt":
            from .torch import TorchFramework

            return TorchFramework(device, dtype, into)
        from .numpy import NumpyFramework

        return NumpyFramework(device, dtype, into)
    except ModuleNotFoundError as error:
        package = {"pt": "torch", "numpy": "numpy"}[name]
        other = "; framework='numpy' works without it" if name == "pt" else ""
        raise ConfigError(
            f"framework={name!r} needs the package {error.name or package}, which is not installed{other}"
        ) from error
