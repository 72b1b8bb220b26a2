"""An HTTP server that does everything right except what a test tells it to do wrong.

A test row says which requests meet which actions (see actions.py); every other request is answered well:

    with ScriptedServer(data) as server:
        server.at(2, Body(1000), Rst())                       # the second request: reset after 1000 bytes
        server.when(lambda request: request.position > 1, Rst(), times=1)
        ws.load(server.url())
    assert server.requests[2].headers["If-Match"] == server.object().etag

It records every request. Its sockets and threads are gone when the `with` block ends, and what went wrong in the
server itself (not on a connection) is raised there.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

from servers.messages import Headers, Object, Request, Response, plain
from servers.ports import bind_to_new_port

MODEL = "/model.safetensors"
_MAX_REQUEST = 1 << 20


class Action(Protocol):
    """Something that a script does to one exchange, see actions.py."""

    def play(self, exchange: Exchange) -> None: ...


class Over(Exception):
    """The connection was ended, by an action or by the client."""


class Exchange:
    """One request and its answer while it is given. Actions change `response`, and send it piece by piece."""

    def __init__(self, server: ScriptedServer, connection: socket.socket, request: Request, response: Response) -> None:
        self.server = server
        self.request = request
        self.response = response
        self._connection = connection
        self._head_sent = False
        self._sent = 0

    @property
    def left(self) -> int:
        """Bytes of the body that were not sent."""
        return len(self.response.body) - self._sent

    def send(self, data: bytes | memoryview) -> None:
        """Sends bytes that are not counted as the body's."""
        try:
            self._connection.sendall(data)
        except OSError:
            raise Over from None  # the client has left

    def send_head(self) -> None:
        if not self._head_sent:
            self._head_sent = True
            self.send(self.response.head)

    def send_body(self, count: int | None = None) -> None:
        """Sends the head if it was not sent, and the next `count` bytes of the body, or all that is left."""
        self.send_head()
        self.send(self.take(count))

    def sent(self, *, all: bool = False) -> None:
        """An action has sent the head by itself, or all of the answer."""
        self._head_sent = True
        if all:
            self._sent = len(self.response.body)

    def take(self, count: int | None = None) -> memoryview:
        """Takes the next bytes of the body without sending them."""
        end = len(self.response.body) if count is None else min(self._sent + count, len(self.response.body))
        part = memoryview(self.response.body)[self._sent : end]
        self._sent = end
        return part

    def wait(self, seconds: float) -> None:
        """Does nothing for a while, unless the client leaves or the server is closed."""
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._connection, select.POLLRDHUP)
        while (left := until - time.monotonic()) > 0:
            if self.server.stopping.wait(min(left, 0.02)) or poll.poll(0):
                raise Over

    def finish(self) -> None:
        """Sends what is left."""
        self.send_body()

    def end(self, *, reset: bool) -> None:
        """Ends the connection, with RST or with FIN."""
        if reset:
            self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Over


class ScriptedServer:
    """See the top of this file.

    Args:
        site: the bytes of one model, at MODEL; objects by path; or a function that answers a request.
        tls: makes it an HTTPS server.
        host: an address of this machine.
        port: 0: a free one.
        name: the host name in its URLs, default `host`.

    """

    def __init__(
        self,
        site: bytes | Mapping[str, bytes | Object] | Callable[[Request], Response],
        *,
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        name: str | None = None,
    ) -> None:
        self.objects: dict[str, Object] = {}
        if isinstance(site, bytes):
            self.objects = {MODEL: Object(site)}
        elif isinstance(site, Mapping):
            self.objects = {k: v if isinstance(v, Object) else Object(v) for k, v in site.items()}
        self._answer = site if callable(site) else self._answer_from_objects
        self.requests: list[Request] = []
        self.connections = 0
        self.handshake_failures: list[str] = []
        self.stopping = threading.Event()
        self._tls = tls
        self._rules: list[tuple[Callable[[Request], bool], tuple[Action, ...], int]] = []
        self._connection_rules: dict[int, tuple[Action, ...]] = {}
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._failures: list[BaseException] = []
        self._listener = self._listen(host, port)
        self.host, self.port = self._listener.getsockname()[:2]
        self.origin = f"{'https' if tls else 'http'}://{name or self.host}:{self.port}"
        self._accepting = self._start(self._accept)

    # What a test says and asks

    def at(self, numbers: int | Iterable[int], *actions: Action) -> None:
        """The request of this number, or each of these, meets the actions."""
        wanted = {numbers} if isinstance(numbers, int) else set(numbers)
        self.when(lambda request: request.number in wanted, *actions)

    def always(self, *actions: Action) -> None:
        """Every request that no rule before this one covers meets the actions."""
        self.when(lambda _: True, *actions)

    def when(self, condition: Callable[[Request], bool], *actions: Action, times: int = 1 << 60) -> None:
        """The first `times` requests that fulfil the condition meet the actions. The first rule that fits wins."""
        with self._lock:
            self._rules.append((condition, actions, times))

    def at_connection(self, number: int, *actions: Action) -> None:
        """The connection of this number meets the actions before anything is read from it: Stall, Fin, Rst."""
        self._connection_rules[number] = actions

    def url(self, path: str = MODEL) -> str:
        return self.origin + path

    def object(self, path: str = MODEL) -> Object:
        return self.objects[path]

    def replace(self, data: bytes, path: str = MODEL) -> None:
        """Another version of an object, from the next request on."""
        self.objects[path] = Object(data, last_modified="Tue, 03 Nov 2026 11:11:11 GMT")

    def heal(self) -> None:
        """Forgets all rules, and what came so far. The clients have to be gone."""
        self._rules = []
        self._connection_rules = {}
        self.requests = []
        self.connections = 0

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def request_id(self, number: int) -> str:
        """What the answer to that request said its id was."""
        return f"REQUEST-{self.port}-{number}"

    @contextlib.contextmanager
    def refusing(self) -> Iterator[None]:
        """Connections are refused in the block."""
        self._shut(self._listener)
        self._accepting.join()
        held = socket.socket()  # bound but not listening, so that nobody else takes the port
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((self.host, self.port))
            yield
        finally:
            held.close()
            self._listener = self._listen(self.host, self.port)
            self._accepting = self._start(self._accept)

    def close(self) -> None:
        """Ends all connections, joins all threads, and raises what went wrong in the server."""
        self.stopping.set()
        self._shut(self._listener)
        self._accepting.join(10)
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)  # of the socket, not of its TLS
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection's thread did not end"
        if self._failures:
            raise self._failures[0]

    def __enter__(self) -> ScriptedServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # How it works

    @staticmethod
    def _listen(host: str, port: int) -> socket.socket:
        if port == 0:
            listener = bind_to_new_port(host)
        else:
            listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
        listener.listen(512)
        return listener

    @staticmethod
    def _shut(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        listener.close()

    def _start(self, run: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=run, args=arguments, name="scripted-server", daemon=True)
        thread.start()
        return thread

    def _accept(self) -> None:
        listener = self._listener
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                if self.stopping.is_set():
                    connection.close()
                    continue
                self.connections += 1
                self._open.add(connection)
                self._threads.append(self._start(self._serve, connection, self.connections))

    def _serve(self, connection: socket.socket, number: int) -> None:
        accepted = connection
        try:
            nothing = Request(0, number, 0, "", "", Headers(), time.monotonic())
            for action in self._connection_rules.get(number, ()):
                action.play(Exchange(self, connection, nothing, plain(500)))
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
                with self._lock:
                    self._open = (self._open - {accepted}) | {connection}
                self._shake_hands(connection)
            received = b""
            position = 0
            while True:
                position += 1
                (*parsed, body), received = _read_request(connection, received)
                self._exchange(connection, Request(0, number, position, *parsed, time.monotonic(), body))
        except Over:
            pass
        except BaseException as error:
            self._failures.append(error)
        finally:
            with self._lock:
                self._open -= {accepted, connection}
            connection.close()

    def _shake_hands(self, connection: ssl.SSLSocket) -> None:
        try:
            connection.do_handshake()
        except OSError as error:
            self.handshake_failures.append(str(error))
            raise Over from None

    def _exchange(self, connection: socket.socket, request: Request) -> None:
        with self._lock:
            request = replace(request, number=len(self.requests) + 1)
            self.requests.append(request)
            actions = self._actions_for(request)
        response = self._answer(request)
        if request.method == "HEAD":
            response.body = b""
        response.headers.set("x-amz-request-id", self.request_id(request.number))
        exchange = Exchange(self, connection, request, response)
        for action in actions:
            action.play(exchange)
        exchange.finish()

    def _actions_for(self, request: Request) -> tuple[Action, ...]:
        for i, (condition, actions, times) in enumerate(self._rules):
            if times > 0 and condition(request):
                self._rules[i] = (condition, actions, times - 1)
                return actions
        return ()

    def _answer_from_objects(self, request: Request) -> Response:
        found = self.objects.get(request.path)
        if found is None:
            return plain(404, "<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
        return found.answer(request)


def _read_request(connection: socket.socket, received: bytes) -> tuple[tuple[str, str, Headers, bytes], bytes]:
    """The next request, and what came behind it."""

    def receive() -> bytes:
        try:
            data = connection.recv(65536)
        except OSError:
            raise Over from None
        if not data or len(received) > _MAX_REQUEST:
            raise Over
        return data

    while b"\r\n\r\n" not in received:
        received += receive()
        if not received[:1].isalpha():  # a TLS handshake, for one
            with contextlib.suppress(OSError):
                connection.sendall(plain(400).head)
            raise Over
    head, received = received.split(b"\r\n\r\n", 1)
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, version = first.split(" ")
    assert version == "HTTP/1.1", f"the client speaks {version}"
    pairs = [line.split(":", 1) for line in lines]
    headers = Headers([(name, value.strip()) for name, value in pairs])
    assert "Transfer-Encoding" not in headers, "a request whose length is not known is not expected here"
    length = int(headers["Content-Length"] or 0)
    while len(received) < length:
        received += receive()
    return (method, target, headers, received[:length]), received[length:]
