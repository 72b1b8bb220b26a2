"""The errors of weightstream as the Run:ai package's callers expect them: each is a ValueError, too.

They stay what they are: a missing file is a `weightstream.NotFoundError` (and so a FileNotFoundError) and a ValueError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import _errors


class TruncatedError(_errors.TruncatedError, ValueError):
    """See weightstream.TruncatedError."""


class SourceChangedError(_errors.SourceChangedError, ValueError):
    """See weightstream.SourceChangedError."""


class NotFoundError(_errors.NotFoundError, ValueError):
    """See weightstream.NotFoundError."""


class AuthError(_errors.AuthError, ValueError):
    """See weightstream.AuthError."""


class StorageError(_errors.StorageError, ValueError):
    """See weightstream.StorageError."""


class ThrottledError(_errors.ThrottledError, ValueError):
    """See weightstream.ThrottledError."""


class ServerError(_errors.ServerError, ValueError):
    """See weightstream.ServerError."""


class ProtocolError(_errors.ProtocolError, ValueError):
    """See weightstream.ProtocolError."""


class TimeoutError(_errors.TimeoutError, ValueError):
    """See weightstream.TimeoutError."""


class DeviceError(_errors.DeviceError, ValueError):
    """See weightstream.DeviceError."""


class MismatchError(_errors.MismatchError, ValueError):
    """See weightstream.MismatchError."""


class RunaiStreamerInvalidInputException(_errors.ConfigError):
    """A request that cannot be carried out, such as one for a device that torch does not know."""


class RunaiStreamerMemoryLimitException(_errors.ConfigError):
    """Never raised: a memory limit below the largest tensor works. For programs that catch it."""


_VALUE_ERRORS: dict[type[_errors.WeightstreamError], type[_errors.WeightstreamError]] = {
    kind.__mro__[1]: kind
    for kind in (
        TruncatedError,
        SourceChangedError,
        NotFoundError,
        AuthError,
        StorageError,
        ThrottledError,
        ServerError,
        ProtocolError,
        TimeoutError,
        DeviceError,
        MismatchError,
    )
}


@contextmanager
def as_value_errors() -> Iterator[None]:
    """What weightstream raises in the block comes out as a ValueError, too."""
    try:
        yield
    except _errors.WeightstreamError as error:
        kind = _VALUE_ERRORS.get(type(error))
        if kind is None:
            raise
        raised = kind(
            error.message,
            source=error.source,
            range=error.range,
            expected=error.expected,
            got=error.got,
            errno=error.errno,
            status=error.status,
            service_code=error.service_code,
            request_id=error.request_id,
            attempts=error.attempts,
        )
        raise raised.with_traceback(error.__traceback__) from None
