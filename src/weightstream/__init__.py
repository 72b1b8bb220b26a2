"""weightstream streams model weights from where they are stored to where they are used.

>>> import weightstream as ws
>>> with ws.stream("model/") as s:
...     for name, tensor in s: ...
>>> weights = ws.load("model/")
>>> with ws.open("model/") as ckpt:
...     ckpt["lm_head.weight"].shape
"""

from ._checkpoint import Checkpoint
from ._checkpoint import open_checkpoint as open
from ._errors import (
    AuthError,
    ClosedError,
    ConfigError,
    DeviceError,
    FormatError,
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

__all__ = [
    "AuthError",
    "Checkpoint",
    "ClosedError",
    "ConfigError",
    "DeviceError",
    "FormatError",
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
    "open",
    "release_pinned_memory",
    "stream",
]
