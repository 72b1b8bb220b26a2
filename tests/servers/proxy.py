"""An HTTP proxy that only makes tunnels (RFC 9110, section 9.3.6), as those between a company and the world do."""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import threading
from dataclasses import dataclass, field
from types import TracebackType

_PATIENCE = 30


@dataclass
class Proxy:
    """Serves on loopback within a `with`.

    Attributes:
        credentials: "user:password".
        refuses: a status for all.
        names: where a "host:port" that only this proxy knows really is, as "host:port".

    """

    credentials: str | None = None
    refuses: int | None = None
    names: dict[str, str] = field(default_factory=dict)
    tunnels: list[str] = field(default_factory=list)  # host:port, one for each connection that asked
    requests: list[str] = field(default_factory=list)  # heads as they came

    def __enter__(self) -> Proxy:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(_PATIENCE)

    def url(self, userinfo: str = "") -> str:
        """The proxy, for an environment variable."""
        return f"http://{userinfo}127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), daemon=True))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(4096)
                if not more:
                    return
                head += more
            self.requests.append(head.decode("latin-1"))
            method, target, *_ = head.decode("latin-1").split(" ")
            if self.credentials is not None:
                wanted = base64.b64encode(self.credentials.encode()).decode()
                if f"proxy-authorization: basic {wanted}".lower() not in head.decode("latin-1").lower():
                    client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
                    return
            refuses = self.refuses or (405 if method != "CONNECT" else None)
            if refuses is not None:
                client.sendall(f"HTTP/1.1 {refuses} As Scripted\r\nContent-Length: 0\r\n\r\n".encode())
                return
            self.tunnels.append(target)
            host, _, port = self.names.get(target, target).rpartition(":")
            with socket.create_connection((host, int(port)), _PATIENCE) as server:
                self._open.append(server)
                client.sendall(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
                _relay(client, server)


def _relay(one: socket.socket, other: socket.socket) -> None:
    while True:
        readable, _, _ = select.select([one, other], [], [], _PATIENCE)
        if not readable:
            return
        for source in readable:
            data = source.recv(1 << 16)
            if not data:
                return
            (other if source is one else one).sendall(data)
