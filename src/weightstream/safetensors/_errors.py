"""Errors that are what callers of the safetensors package catch, and what weightstream says.

An error of weightstream that is an `OSError` (no such file, permission denied, a timeout) goes through as it is: there
safetensors raises an `OSError`, too. Every other one becomes an object that is both, with the original as its cause.
"""

from __future__ import annotations

from typing import NoReturn

from safetensors import SafetensorError

from .. import _errors
from .._errors import WeightstreamError


class FormatError(SafetensorError, _errors.FormatError):
    """The bytes are not a valid safetensors file, or not a valid index of one."""


class TruncatedError(SafetensorError, _errors.TruncatedError):
    """The source ended before the range that was asked for did."""


class SourceChangedError(SafetensorError, _errors.SourceChangedError):
    """The source was replaced or written to after its header was read."""


class ThrottledError(SafetensorError, _errors.ThrottledError):
    """A server asked to slow down until the retries were used up."""


class ServerError(SafetensorError, _errors.ServerError):
    """A server failed until the retries were used up."""


class ProtocolError(SafetensorError, _errors.ProtocolError):
    """A server answered something else than was asked for."""


class DeviceError(SafetensorError, _errors.DeviceError):
    """An accelerator is missing, failed, or is out of memory."""


class ClosedError(SafetensorError, _errors.ClosedError):
    """Used after the handle was closed."""


class ConfigError(SafetensorError, _errors.ConfigError):
    """A setting or a location that cannot work."""


_BOTH: dict[type[WeightstreamError], type[WeightstreamError]] = {
    _errors.FormatError: FormatError,
    _errors.TruncatedError: TruncatedError,
    _errors.SourceChangedError: SourceChangedError,
    _errors.ThrottledError: ThrottledError,
    _errors.ServerError: ServerError,
    _errors.ProtocolError: ProtocolError,
    _errors.DeviceError: DeviceError,
    _errors.ClosedError: ClosedError,
    _errors.ConfigError: ConfigError,
}


def reraise(error: WeightstreamError, what: str = "") -> NoReturn:
    """Raises what callers of the safetensors package catch. `what` goes before the message of such an error."""
    both = _BOTH.get(type(error))
    if both is None:
        raise error
    raise both(
        what + error.message,
        source=error.source,
        range=error.range,
        expected=error.expected,
        got=error.got,
        errno=error.errno,
        status=error.status,
        service_code=error.service_code,
        request_id=error.request_id,
        attempts=error.attempts,
    ) from error


def closed() -> ClosedError:
    """What any use of a closed handle raises."""
    return ClosedError("File is closed")


def unknown(name: str) -> Exception:
    """What a name that no source has raises."""
    return SafetensorError(f"File does not contain tensor {name}")
