"""weightstream streams model weights from where they are stored to where they are used.

>>> import weightstream as ws
>>> with ws.stream("model/") as s:
...     for name, tensor in s: ...
>>> weights = ws.load("model/")
>>> with ws.open("model/") as ckpt:
...     ckpt["lm_head.weight"].shape
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._checkpoint import Checkpoint
from ._checkpoint import open_checkpoint as open
from ._errors import (
    AuthError,
    ClosedError,
    ConfigError,
    DeviceError,
    FormatError,
    MismatchError,
    NotFoundError,
    ProtocolError,
    ServerError,
    SourceChangedError,
    StorageError,
    ThrottledError,
    TimeoutError,
    TruncatedError,
    WeightstreamError,
)
from ._stream import StreamStats, TensorStream, load, release_pinned_memory, stream
from ._tensors import SourceInfo, TensorInfo, TensorSlice
from ._version import __version__

if _TYPE_CHECKING:
    from ._load_into import load_into
    from ._patch import patch_safetensors

__all__ = [
    "AuthError",
    "Checkpoint",
    "ClosedError",
    "ConfigError",
    "DeviceError",
    "FormatError",
    "MismatchError",
    "NotFoundError",
    "ProtocolError",
    "ServerError",
    "SourceChangedError",
    "SourceInfo",
    "StorageError",
    "StreamStats",
    "TensorInfo",
    "TensorSlice",
    "TensorStream",
    "ThrottledError",
    "TimeoutError",
    "TruncatedError",
    "WeightstreamError",
    "__version__",
    "load",
    "load_into",
    "open",
    "patch_safetensors",
    "release_pinned_memory",
    "stream",
]

# Public names that are imported when they are first used, and the modules that have them.
_LATE = {"load_into": "_load_into", "patch_safetensors": "_patch"}


def __getattr__(name: str) -> _Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found = globals()[name] = getattr(import_module(f".{_LATE[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
