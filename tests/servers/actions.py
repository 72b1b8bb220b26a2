"""What a ScriptedServer can do wrong, or do in its own way. A list of actions changes one answer.

An answer begins as the right one. Head, Status, Redirect, Serve and Whole change it, as long as nothing was sent. Body,
Slow, Extra and Chunked send of it; the head goes out before the first of them. What is left goes out after the last
action, unless Fin or Rst ended the connection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from servers.messages import Object, Request, plain

if TYPE_CHECKING:
    from servers.scripted import Exchange


@dataclass(frozen=True)
class Head:
    """Other header lines, or another status: {"ETag": None} leaves one out. `also`: more lines, of whatever name."""

    headers: Mapping[str, str | None] = field(default_factory=dict)
    status: int | None = None
    also: tuple[tuple[str, str], ...] = ()

    def play(self, exchange: Exchange) -> None:
        response = exchange.response
        for name, value in self.headers.items():
            response.headers.drop(name)
            if value is not None:
                response.headers.set(name, value)
        response.headers.lines += self.also
        response.status = self.status or response.status


@dataclass(frozen=True)
class Status:
    """Another answer altogether."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | str = b""

    def play(self, exchange: Exchange) -> None:
        request_id = exchange.response.headers["x-amz-request-id"]
        exchange.response = plain(self.status, self.body, self.headers)
        if request_id is not None and "x-amz-request-id" not in exchange.response.headers:
            exchange.response.headers.set("x-amz-request-id", request_id)


@dataclass(frozen=True)
class Redirect:
    """Another place to look at."""

    location: str
    status: int = 302

    def play(self, exchange: Exchange) -> None:
        Status(self.status, {"Location": self.location}).play(exchange)


@dataclass(frozen=True)
class Serve:
    """Another range than the one that was asked for, or another object's. None: as asked."""

    begin: int | None = None
    end: int | None = None
    of: Object | None = None
    says: str | None = None  # Content-Range, where it shall not be the truth

    def play(self, exchange: Exchange) -> None:
        request = exchange.request
        served = self.of or exchange.server.object(request.path)
        asked = request.range_of(len(served.data)) or (0, len(served.data))
        begin = asked[0] if self.begin is None else self.begin
        end = asked[1] if self.end is None else self.end
        lines = [line for line in request.headers if line[0].lower() not in ("range", "if-match")]
        other = Request(**{**vars(request), "headers": type(request.headers)(lines)})
        other.headers.set("Range", f"bytes={begin}-{end - 1}")
        request_id = exchange.response.headers["x-amz-request-id"]
        exchange.response = served.answer(other)
        exchange.response.headers.set("x-amz-request-id", request_id or "")
        if self.says is not None:
            exchange.response.headers.set("Content-Range", self.says)


@dataclass(frozen=True)
class Whole:
    """200 and the whole object, whatever range was asked for."""

    def play(self, exchange: Exchange) -> None:
        data = exchange.server.object(exchange.request.path).data
        exchange.response.body = data
        Head({"Content-Range": None, "Content-Length": str(len(data))}, status=200).play(exchange)


@dataclass(frozen=True)
class Longer:
    """More bytes than were asked for, at the end of the body; Content-Range says nothing of them."""

    data: bytes

    def play(self, exchange: Exchange) -> None:
        exchange.response.body = bytes(exchange.response.body) + self.data
        Head({"Content-Length": str(len(exchange.response.body))}).play(exchange)


@dataclass(frozen=True)
class Body:
    """Sends so many bytes of the body, or what is left of it. Body(0) sends the head only."""

    count: int | None = None

    def play(self, exchange: Exchange) -> None:
        exchange.send_body(self.count)


@dataclass(frozen=True)
class Extra:
    """Sends the body, and bytes behind it."""

    data: bytes

    def play(self, exchange: Exchange) -> None:
        exchange.send_body()
        exchange.send(self.data)


@dataclass(frozen=True)
class Raw:
    """Sends these bytes, and nothing else, as the answer."""

    data: bytes

    def play(self, exchange: Exchange) -> None:
        exchange.sent(all=True)
        exchange.send(self.data)


@dataclass(frozen=True)
class Stall:
    """Nothing for a while."""

    seconds: float

    def play(self, exchange: Exchange) -> None:
        exchange.wait(self.seconds)


@dataclass(frozen=True)
class Slow:
    """Sends the answer at so many bytes a second, ten times a second: its body, or already its head."""

    rate: float
    count: int | None = None
    head: bool = False

    def play(self, exchange: Exchange) -> None:
        step = max(1, int(self.rate / 10))
        if self.head:
            head = exchange.response.head
            for i in range(0, len(head), step):
                exchange.send(head[i : i + step])
                exchange.wait(step / self.rate)
            exchange.sent()
        exchange.send_head()
        end = max(0, exchange.left - self.count) if self.count is not None else 0
        while exchange.left > end:
            exchange.send_body(min(step, exchange.left - end))
            exchange.wait(step / self.rate)


@dataclass(frozen=True)
class Chunked:
    """Sends the body in chunks; with `count`, so many bytes of it, and ends without the last chunk."""

    size: int = 10_000
    count: int | None = None

    def play(self, exchange: Exchange) -> None:
        Head({"Content-Length": None, "Transfer-Encoding": "chunked"}).play(exchange)
        exchange.send_head()
        left = exchange.left if self.count is None else min(self.count, exchange.left)
        while left > 0:
            chunk = exchange.take(min(self.size, left))
            left -= len(chunk)
            exchange.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        if self.count is None:
            exchange.send(b"0\r\n\r\n")
        else:
            exchange.end(reset=False)


@dataclass(frozen=True)
class Fin:
    """Ends the connection as a server that has said everything."""

    def play(self, exchange: Exchange) -> None:
        exchange.end(reset=False)


@dataclass(frozen=True)
class Rst:
    """Resets the connection."""

    def play(self, exchange: Exchange) -> None:
        exchange.end(reset=True)


@dataclass(frozen=True)
class Finish:
    """Sends what is left and ends the connection without having said so: a pooled connection goes stale."""

    reset: bool = False

    def play(self, exchange: Exchange) -> None:
        exchange.finish()
        exchange.end(reset=self.reset)
