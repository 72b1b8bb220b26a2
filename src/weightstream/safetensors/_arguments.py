"""The arguments of safe_open, checked as the safetensors package checks them."""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Sequence
from typing import Any, Literal, cast

from safetensors import SafetensorError

from ..sources import Location

_OWN_FRAMEWORKS: dict[str, Literal["pt", "numpy"]] = {
    "pt": "pt",
    "torch": "pt",
    "pytorch": "pt",
    "np": "numpy",
    "numpy": "numpy",
}
# Those are tensors of other packages: they are left to the safetensors package.
OTHER_FRAMEWORKS = frozenset({"tf", "tensorflow", "jax", "flax", "mlx", "paddle"})
_BACKENDS = ("mmap", "pread")
_DEVICE = re.compile(r"(cuda|mps|npu|xpu|xla|mlu|musa|hpu)(?::(.*))?", re.DOTALL)


def framework_of(name: Any) -> Literal["pt", "numpy"] | None:
    """Whose tensors are made; None for a framework that is left to the safetensors package."""
    if not isinstance(name, str):
        raise TypeError(f"argument 'framework': {_described(name)} is not an instance of 'str'")
    if name in OTHER_FRAMEWORKS:
        return None
    try:
        return _OWN_FRAMEWORKS[name]
    except KeyError:
        raise SafetensorError(f"framework {name} is invalid") from None


def device_of(device: Any, framework: str) -> str | int:
    """The device as weightstream spells it: "cpu", "cuda:0", or the index of an accelerator.

    A torch.device will do as well, which safetensors does not take.
    """
    if device is None or (isinstance(device, str) and device == "cpu"):
        return "cpu"
    made: str | int
    shown: object
    if isinstance(device, str) or type(device).__module__ == "torch":
        matched = _DEVICE.fullmatch(str(device))
        if matched is None:
            if str(device) == "cpu":  # a torch.device
                return "cpu"
            raise SafetensorError(f"device {device} is invalid")
        kind, index = matched[1], matched[2]
        if index is not None and not index.isdecimal():
            raise ValueError("invalid digit found in string" if index else "cannot parse integer from empty string")
        made = shown = "mps" if kind == "mps" else f"{kind}:{int(index or 0)}"
    else:
        try:
            number = operator.index(device)
        except TypeError:
            number = -1
        if number < 0:
            raise SafetensorError(f"device {device!r} is invalid")
        made = shown = number
    if framework != "pt":
        raise SafetensorError(f"Device {shown} is not supported for framework {framework}")
    return made


def check_backend(backend: Any) -> None:
    """Raises what safetensors raises for a backend that it does not have."""
    if not isinstance(backend, str):
        raise TypeError(f"argument 'backend': {_described(backend)} is not an instance of 'str'")
    if backend not in _BACKENDS:
        raise SafetensorError(f'backend "{backend}" is invalid (expected one of: "mmap", "pread")')


def location_of(filename: Any) -> Location:
    """A path, a URL, or several of them, which are read as one file."""
    if isinstance(filename, (bytes, bytearray)):
        raise TypeError(f"argument 'filename': {_described(filename)} is not an instance of 'str'")
    if isinstance(filename, (str, os.PathLike)):
        return os.fspath(filename)
    if isinstance(filename, Sequence):
        return cast("Location", filename)
    raise TypeError(f"argument 'filename': expected str, bytes or os.PathLike object, not {type(filename).__name__}")


def check_name(name: Any) -> None:
    """Raises what safetensors raises for a name that is no str."""
    if not isinstance(name, str):
        raise TypeError(f"argument 'name': {_described(name)} is not an instance of 'str'")


def _described(value: Any) -> str:
    return "'None'" if value is None else f"'{type(value).__name__}' object"
