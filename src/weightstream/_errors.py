"""The errors of weightstream.

Each is also the builtin exception that a caller would expect::

    WeightstreamError
    ├── FormatError (ValueError)               the bytes are not a valid safetensors file or index
    ├── TruncatedError (EOFError)              the source ended before the range did
    ├── SourceChangedError                     the source is not the one whose header was read
    ├── NotFoundError (FileNotFoundError)      no such file, directory or match
    ├── AuthError (PermissionError)            permission denied
    ├── StorageError (OSError)                 the operating system failed or refused: see errno
    ├── ThrottledError                         a server asks to slow down, and kept asking
    ├── ServerError                            a server failed, and kept failing
    ├── ProtocolError                          a server answered something else than was asked for
    ├── TimeoutError (builtins.TimeoutError)   a deadline passed
    ├── DeviceError (RuntimeError)             an accelerator is missing, failed, or is out of memory
    ├── MismatchError (RuntimeError)           a checkpoint's tensors are not those of the module to load into
    ├── ClosedError (ValueError)               used after close(), or in a forked child
    └── ConfigError (ValueError)               a setting or a location that cannot work
"""

from __future__ import annotations

import builtins
import os
from typing import Any


class WeightstreamError(Exception):
    """Base of all errors of weightstream.

    Attributes:
        source: path or URL of the source that failed, or None.
        range: (begin, end) in bytes, the part of the source that was asked for, or None.
        expected: what should have come (a number of bytes, mostly), or None.
        got: what came, or None.
        errno: the operating system's error number, or None.
        status: the HTTP status of the response that decided, or None.
        service_code: the storage service's own name for the error ("NoSuchKey"), or None.
        request_id: by which the service's operators find the request, or None.
        attempts: requests that were made for the range, or None where nothing is tried again.

    Example:
        >>> try:
        ...     ws.load("model.safetensors")
        ... except ws.WeightstreamError as error:
        ...     print(error, error.source, error.range)

    """

    def __init__(
        self,
        message: str,
        *,
        source: str | None = None,
        range: tuple[int, int] | None = None,
        expected: int | None = None,
        got: int | None = None,
        errno: int | None = None,
        status: int | None = None,
        service_code: str | None = None,
        request_id: str | None = None,
        attempts: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.source = source
        self.range = range
        self.expected = expected
        self.got = got
        self.errno = errno
        self.status = status
        self.service_code = service_code
        self.request_id = request_id
        self.attempts = attempts
        _fill_os_error(self, message if errno is None else os.strerror(errno), source)

    def __str__(self) -> str:
        parts = [self.message if self.source is None else f"{self.source}: {self.message}"]
        details = []
        if self.range is not None:
            details.append(f"bytes {self.range[0]} to {self.range[1]}")
        if self.expected is not None and self.got is not None:
            details.append(f"expected {self.expected}, got {self.got}")
        if self.errno is not None:
            details.append(f"errno {self.errno}")
        if self.status is not None:
            details.append(f"HTTP status {self.status}")
        if self.service_code is not None and f"({self.service_code})" not in self.message:  # as the core writes it
            details.append(f"service code {self.service_code}")
        if self.request_id is not None:
            details.append(f"request id {self.request_id}")
        if self.attempts is not None and self.attempts > 1:
            details.append(f"{self.attempts} attempts")
        if details:
            parts.append(f"({'; '.join(details)})")
        return " ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        state = {
            "source": self.source,
            "range": self.range,
            "expected": self.expected,
            "got": self.got,
            "errno": self.errno,
            "status": self.status,
            "service_code": self.service_code,
            "request_id": self.request_id,
            "attempts": self.attempts,
        }
        return _rebuild, (type(self), self.message, state)


def _fill_os_error(error: Exception, strerror: str, filename: str | None) -> None:
    """Sets what callers of an OSError look at."""
    if isinstance(error, OSError):
        error.strerror = strerror
        error.filename = filename


def _rebuild(cls: type[WeightstreamError], message: str, state: dict[str, Any]) -> WeightstreamError:
    return cls(message, **state)


class FormatError(WeightstreamError, ValueError):
    """The bytes are not a valid safetensors file, or not a valid index of one."""


class TruncatedError(WeightstreamError, EOFError):
    """The source ended before the range that was asked for did."""


class SourceChangedError(WeightstreamError):
    """The source was replaced or written to after its header was read."""


class NotFoundError(WeightstreamError, FileNotFoundError):
    """There is no such file or directory, or nothing matches."""


class AuthError(WeightstreamError, PermissionError):
    """Reading is not permitted."""


class StorageError(WeightstreamError, OSError):
    """The operating system failed or refused an operation; `errno` says why."""


class ThrottledError(WeightstreamError):
    """A server asked to slow down until the retries were used up."""


class ServerError(WeightstreamError):
    """A server failed until the retries were used up."""


class ProtocolError(WeightstreamError):
    """A server answered something else than was asked for."""


class TimeoutError(WeightstreamError, builtins.TimeoutError):
    """A deadline passed."""


class DeviceError(WeightstreamError, RuntimeError):
    """An accelerator is missing, failed, or is out of memory."""


class MismatchError(WeightstreamError, RuntimeError):
    """The tensors of a checkpoint are not those of the module that they are to be loaded into."""


class ClosedError(WeightstreamError, ValueError):
    """Used after close(), or in a child process that was forked from the one that opened it."""


class ConfigError(WeightstreamError, ValueError):
    """A setting or a location that cannot work."""
