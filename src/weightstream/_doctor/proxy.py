"""The proxy before an endpoint, as libcurl finds it, and what it answers when it is asked for a tunnel.

The SDKs list through the proxies that urllib finds, which are others where only the spelling HTTP_PROXY is set.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

from ..sources.remote import printable

_DEFAULT_PORT = 1080  # libcurl's, of all kinds but https
_KINDS = ("http", "https", "socks", "socks4", "socks4a", "socks5", "socks5h")
_MOST_HEAD = 1 << 14


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it. Its repr has no password."""

    variable: str
    url: SplitResult

    def __repr__(self) -> str:
        return f"Proxy({self.variable}={self.name})"

    @property
    def name(self) -> str:
        """Fit for messages."""
        return printable(self.url.geturl())

    @property
    def kind(self) -> str:
        """Its scheme."""
        return self.url.scheme

    @property
    def host(self) -> str:
        """Without brackets."""
        return self.url.hostname or ""

    @property
    def port(self) -> int:
        """As libcurl takes it, which is not 80 where there is none."""
        return self.url.port or (443 if self.kind == "https" else _DEFAULT_PORT)

    def problem(self) -> str | None:
        """Why libcurl takes no such proxy."""
        try:
            valid = bool(self.host) and self.port > 0
        except ValueError:
            valid = False
        if not valid:
            return f"{self.variable} is not of the form http://host:port"
        if self.kind not in _KINDS:
            return f"{self.variable} names a proxy of a kind that is not supported: {self.kind}://"
        return None

    def ask(self, connection: socket.socket, host: str, port: int) -> tuple[int | None, str]:
        """The status of its answer to CONNECT, and the answer's first line; None when that is not HTTP.

        Raises:
            OSError: it did not answer, or broke the connection.

        """
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: weightstream"]
        if self.url.username or self.url.password:
            pair = f"{unquote(self.url.username or '')}:{unquote(self.url.password or '')}".encode()
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(pair).decode()}")
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        head = b""
        while b"\r\n\r\n" not in head and len(head) < _MOST_HEAD:
            # Byte by byte: what follows the head is the tunnel's.
            byte = connection.recv(1)
            if not byte:
                break
            head += byte
        line = head.partition(b"\r\n")[0].decode("latin-1")
        status = re.match(r"HTTP/1\.[01] (\d{3})\b", line)
        return (int(status[1]) if status else None), line[:100]


def find(scheme: str, host: str) -> Proxy | None:
    """The proxy that libcurl would ask for a URL of this scheme and host; None: it connects directly."""
    if _is_exempt(host, os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""):
        return None
    # HTTP_PROXY may be made by a client's header "Proxy" in a CGI program, and does not count.
    upper = [] if scheme == "http" else [f"{scheme}_proxy".upper()]
    for variable in (f"{scheme}_proxy", *upper, "all_proxy", "ALL_PROXY"):
        value = os.environ.get(variable)
        if value:
            return Proxy(variable, urlsplit(value if "://" in value else f"http://{value}"))
    return None


def _is_exempt(host: str, no_proxy: str) -> bool:
    """Whether `no_proxy` has the host: by a name or the end of one, an address, or a network."""
    if no_proxy == "*":
        return True
    address = _address(host)
    name = host.lower().rstrip(".")
    for token in re.split(r"[\s,]+", no_proxy.lower()):
        if address is not None:
            try:
                if address in ipaddress.ip_network(token.strip("[]"), strict=False):
                    return True
            except ValueError:
                continue
        else:
            domain = token.rstrip(".").removeprefix(".")
            if domain and (name == domain or name.endswith(f".{domain}")):
                return True
    return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
