"""A whole small object through the core: by the same endpoint, credentials, TLS settings and retries as tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .. import _log
from .._errors import AuthError, FormatError, NotFoundError, ProtocolError
from .._raw import raw_stream
from .remote import RemoteSource
from .renewal import Renewer

_PIECE = 8 << 20


def is_there(source: RemoteSource) -> bool:
    """Whether there is such an object, and it may be read. Reads its beginning.

    Raises:
        WeightstreamError: what else asking for it met.

    """
    core: Any = import_module("weightstream._core")
    try:
        with Renewer([source]) as renewer, _log.forwarding() as log:
            core.Sources.open(renewer.objects, log)
    except (NotFoundError, AuthError):  # buckets that may not be listed refuse what is not there
        return False
    return True


def fetch(source: RemoteSource, most_bytes: int) -> bytes:
    """The bytes of `source`.

    Raises:
        FormatError: it is larger than `most_bytes`.
        WeightstreamError: what reading it met.

    """
    core: Any = import_module("weightstream._core")
    with Renewer([source]) as renewer:
        with _log.forwarding() as log:
            opened = core.Sources.open(renewer.objects, log)
        size: int = opened.size(0)
        if size > most_bytes:
            raise FormatError(f"it has {size} bytes, more than the {most_bytes} that it may have", source=source.name)
        head = opened.head(0)[:size]
        data = bytearray(size)
        data[: len(head)] = head
        pieces = [(0, begin, min(begin + _PIECE, size)) for begin in range(len(head), size, _PIECE)]
        missing = len(pieces)
        if pieces:
            with raw_stream(opened, pieces) as stream:
                while batch := stream.next():
                    for number, buffer in batch:
                        _, begin, end = pieces[number]
                        data[begin:end] = memoryview(buffer)
                        missing -= 1
    if missing or len(data) != size:
        raise ProtocolError("the reader ended before all of it was read", source=source.name, expected=size)
    return bytes(data)
