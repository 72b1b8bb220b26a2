"""The same call on the safetensors package and on weightstream, and what came of it, in a form that can be compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import safetensors
import torch

import weightstream.safetensors
from checkpoints import bytes_of

THEIRS = safetensors.safe_open
OURS = weightstream.safetensors.safe_open


def outcome(call: Callable[[], Any], *, message: bool = True) -> Any:
    """What a call returns, as plain values; or the builtin or safetensors exception that it raises, and its message."""
    try:
        return plain(call())
    except Exception as error:
        kind = safetensors.SafetensorError if isinstance(error, safetensors.SafetensorError) else builtin(type(error))
        return (kind, str(error)) if message else kind


def builtin(kind: type[BaseException]) -> type[BaseException]:
    """The nearest exception of Python itself."""
    return next(base for base in kind.__mro__ if base.__module__ == "builtins" and issubclass(base, BaseException))


def plain(value: Any) -> Any:
    """Tensors as (dtype, shape, bytes); containers with these in them, in their order."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), str(value.device), bytes_of(value)
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(name, plain(one)) for name, one in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    if isinstance(value, (OURS, THEIRS)):
        return "a handle"
    return value
