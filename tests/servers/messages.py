"""HTTP requests as they came, and the answers of a server that does everything right."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl, unquote, urlsplit

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_REASONS = {200: "OK", 206: "Partial Content", 302: "Found", 403: "Forbidden", 404: "Not Found", 503: "Slow Down"}


class Headers:
    """Header lines in their order. Names are looked up in any case, and None says that there is none."""

    def __init__(self, lines: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        self.lines = list(lines.items() if isinstance(lines, Mapping) else lines)

    def __getitem__(self, name: str) -> str | None:
        return next((value for key, value in self.lines if key.lower() == name.lower()), None)

    def __contains__(self, name: str) -> bool:
        return self[name] is not None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.lines)

    def __repr__(self) -> str:
        return f"Headers({self.lines})"

    def set(self, name: str, value: str) -> None:
        self.drop(name)
        self.lines.append((name, value))

    def drop(self, name: str) -> None:
        self.lines = [(key, value) for key, value in self.lines if key.lower() != name.lower()]


@dataclass(frozen=True)
class Request:
    """A request as it came.

    Attributes:
        number: 1, 2, ... in the order of arrival, over all connections.
        connection: 1, 2, ... likewise, of its connection.
        position: 1, 2, ... within its connection.
        target: path and query, as they were sent.
        time: when it was complete, in seconds of time.monotonic().

    """

    number: int
    connection: int
    position: int
    method: str
    target: str
    headers: Headers
    time: float
    body: bytes = b""

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))

    def range_of(self, size: int) -> tuple[int, int] | None:
        """The bytes [begin, end) that it asks for, of an object of `size` bytes; None: all of them.

        begin >= end: a range that cannot be satisfied.
        """
        match = _RANGE.fullmatch(self.headers["Range"] or "")
        if match is None or match[1] == match[2] == "":
            return None
        if match[1] == "":
            return max(0, size - int(match[2])), size
        end = int(match[2]) + 1 if match[2] else size
        return int(match[1]), min(end, size)


@dataclass
class Response:
    """What is about to be answered. The length of the body is a header like any other."""

    status: int
    headers: Headers
    body: bytes | memoryview = b""

    @property
    def head(self) -> bytes:
        lines = [f"HTTP/1.1 {self.status} {_REASONS.get(self.status, 'Status')}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def plain(status: int, body: bytes | str = b"", headers: Mapping[str, str] | None = None) -> Response:
    """An answer with a small body of its own."""
    body = body.encode() if isinstance(body, str) else body
    return Response(status, Headers({"Content-Length": str(len(body)), **(headers or {})}), body)


@dataclass
class Object:
    """Bytes that a server holds, and what it says about them; an empty string is not said."""

    data: bytes
    etag: str | None = None  # one that depends on the bytes
    last_modified: str = "Mon, 02 Nov 2026 10:00:00 GMT"

    def __post_init__(self) -> None:
        if self.etag is None:
            self.etag = f'"{hashlib.sha256(self.data).hexdigest()[:32]}"'

    def answer(self, request: Request) -> Response:
        """What a good server says to a GET or HEAD of it."""
        size = len(self.data)
        validators = {"ETag": self.etag, "Last-Modified": self.last_modified}
        headers = {name: value for name, value in validators.items() if value}
        if_match = request.headers["If-Match"]
        if if_match is not None and self.etag not in [tag.strip() for tag in if_match.split(",")]:
            return plain(412, "<Error><Code>PreconditionFailed</Code></Error>", headers)
        wanted = request.range_of(size)
        if wanted is not None and wanted[0] >= wanted[1]:
            headers["Content-Range"] = f"bytes */{size}"
            return plain(416, "<Error><Code>InvalidRange</Code></Error>", headers)
        begin, end = wanted or (0, size)
        headers["Accept-Ranges"] = "bytes"
        headers["Content-Type"] = "application/octet-stream"
        headers["Content-Length"] = str(end - begin)
        if wanted is not None:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        return Response(206 if wanted else 200, Headers(headers), memoryview(self.data)[begin:end])
