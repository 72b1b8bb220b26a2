"""Settings: a keyword, else its environment variable, else the default. The environment is read here only."""

from __future__ import annotations

import fnmatch
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ._errors import ConfigError

if TYPE_CHECKING:
    import torch

Names: TypeAlias = "Iterable[str] | Callable[[str], bool]"
Device: TypeAlias = "str | int | torch.device"
Size: TypeAlias = "int | str"

PREFIX = "WEIGHTSTREAM_"
FRAMEWORKS = ("pt", "numpy")
ORDERS = ("arrival", "file")
BACKENDS = ("auto", "uring", "pread", "mmap", "gds")

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", re.IGNORECASE)
_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")


def parse_size(value: Size, what: str = "size") -> int:
    """Bytes of a size given as an int or as text such as ``"256MiB"`` or ``"2GB"`` (GB = 1e9, GiB = 2**30).

    Raises:
        ConfigError: not a size, or not positive.

    Example:
        >>> parse_size("2GiB")
        2147483648

    """
    if isinstance(value, bool):
        raise ConfigError(f"{what}={value!r} is not a size; give bytes, or text such as '2GiB'")
    if isinstance(value, int):
        size = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError(f"{what}={value!r} is not a size; give bytes, or text such as '2GiB'")
        size = int(float(match[1]) * _UNITS[(match[2] or "").lower()])
    if not 0 < size < 2**63:
        raise ConfigError(f"{what}={value!r} must be more than 0 bytes and less than 8 EiB")
    return size


@dataclass(frozen=True)
class Settings:
    """The resolved settings of one stream. Sizes in bytes; 0 lets the core choose."""

    device: Device
    framework: Literal["pt", "numpy"]
    names: Names | None
    order: Literal["arrival", "file"]
    memory_limit: int
    device_limit: int
    concurrency: int
    backend: Literal["auto", "uring", "pread", "mmap", "gds"]
    progress: bool
    dtype: Any
    into: Mapping[str, Any] | None
    trace: str | None
    storage_options: Mapping[str, Any] = field(repr=False)  # may hold secrets


def resolve(
    *,
    device: Device | None = None,
    framework: str | None = None,
    names: Names | None = None,
    order: str | None = None,
    memory_limit: Size | None = None,
    device_limit: Size | None = None,
    concurrency: int | None = None,
    backend: str | None = None,
    progress: bool | None = None,
    dtype: Any = None,
    into: Mapping[str, Any] | None = None,
    trace: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Settings:
    """Fills what is None from the environment and the defaults, and checks every value.

    Raises:
        ConfigError: a value that cannot work; it names the keyword or the environment variable.

    """
    into = _into(into, dtype)
    if into and device is None:
        device = getattr(next(iter(into.values())), "device", None)
    return Settings(
        device=_first(device, "DEVICE", "cpu"),
        framework=_choice(framework, "framework", FRAMEWORKS, "pt"),
        names=_names(names) if into is None else names,  # None with `into`: all of its
        order=_choice(order, "order", ORDERS, "arrival"),
        memory_limit=_limit(memory_limit, "memory_limit"),
        device_limit=_limit(device_limit, "device_limit"),
        concurrency=_concurrency(concurrency),
        backend=_choice(backend, "backend", BACKENDS, "auto"),
        progress=show_progress(progress, default=False),
        dtype=_first(dtype, "DTYPE", None) if into is None else None,
        into=into,
        trace=_trace(trace),
        storage_options=_options(storage_options),
    )


def flag(name: str, *, default: bool = False) -> bool:
    """Whether ``WEIGHTSTREAM_<name>`` says yes.

    Raises:
        ConfigError: it is neither true nor false.

    """
    variable = PREFIX + name
    text = os.environ.get(variable, "").strip().lower()
    if not text:
        return default
    if text not in _TRUE + _FALSE:
        raise ConfigError(f"{variable}={text!r} is neither true nor false")
    return text in _TRUE


def show_progress(value: bool | None, *, default: bool) -> bool:
    """Whether to show a progress bar: a program shows one when told to, a command unless told not to.

    Raises:
        ConfigError: the environment variable is neither true nor false.

    """
    return flag("PROGRESS", default=default) if value is None else bool(value)


def _first(value: Any, variable: str, default: Any) -> Any:
    if value is not None:
        return value
    return os.environ.get(PREFIX + variable) or default


def _what(value: Any, keyword: str) -> str:
    """How to call a setting in a message: by the keyword if it was given, else by the environment variable."""
    return keyword if value is not None else PREFIX + keyword.upper()


def _choice(value: str | None, keyword: str, choices: tuple[str, ...], default: str) -> Any:
    chosen = _first(value, keyword.upper(), default)
    if chosen not in choices:
        allowed = ", ".join(repr(choice) for choice in choices)
        raise ConfigError(f"{_what(value, keyword)}={chosen!r} is not one of {allowed}")
    return chosen


def _limit(value: Size | None, keyword: str) -> int:
    size = _first(value, keyword.upper(), None)
    return 0 if size is None else parse_size(size, _what(value, keyword))


def _concurrency(value: int | None) -> int:
    chosen = _first(value, "CONCURRENCY", None)
    if chosen is None:
        return 0
    what = _what(value, "concurrency")
    try:
        number = int(chosen)
    except (TypeError, ValueError):
        raise ConfigError(f"{what}={chosen!r} is not a number of reads") from None
    if isinstance(chosen, (bool, float)) or not 1 <= number <= 1024:
        raise ConfigError(f"{what}={chosen!r} must be a whole number from 1 to 1024")
    return number


def _names(value: Names | None) -> Names | None:
    if isinstance(value, str):
        raise ConfigError(f"names={value!r} is one string; give a list of names, or a function of a name")
    if value is not None:
        return value
    patterns = [pattern.strip() for pattern in os.environ.get(PREFIX + "NAMES", "").split(",") if pattern.strip()]
    if not patterns:
        return None
    return lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _trace(value: str | os.PathLike[str] | None) -> str | None:
    given: str | os.PathLike[str] = _first(value, "TRACE", "")
    if not os.fspath(given):
        return None
    path = os.path.abspath(os.path.expanduser(os.fspath(given)))
    if os.path.isdir(path) or not os.access(os.path.dirname(path), os.W_OK):
        raise ConfigError(f"{_what(value, 'trace')}={path!r} is not a file that can be written")
    return path


def _into(value: Mapping[str, Any] | None, dtype: Any) -> Mapping[str, Any] | None:
    if value is None:
        return None
    if not isinstance(value, Mapping):
        raise ConfigError(f"into is a mapping of names to tensors, not a {type(value).__name__}")
    if dtype is not None:
        raise ConfigError("dtype and into exclude each other: the tensors of into have their dtypes")
    return {name: value[name] for name in value}  # the caller's may change, or make tensors as it is asked


def _options(value: Mapping[str, Any] | None) -> Mapping[str, Any]:
    if value is not None:
        return value
    text = os.environ.get(PREFIX + "STORAGE_OPTIONS")
    if not text:
        return {}
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        # The value may hold secrets: it is not repeated.
        raise ConfigError(f"{PREFIX}STORAGE_OPTIONS is not a JSON object")
    return options
