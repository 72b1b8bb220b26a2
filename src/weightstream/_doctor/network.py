"""The way to an endpoint: name, proxy, TCP, TLS. As plain as possible, to see which of them is at fault."""

from __future__ import annotations

import os
import socket
import ssl
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .._format import seconds_text
from ..sources.remote import printable
from .advice import about_certificate
from .proxy import Proxy, find
from .steps import Step

SECONDS = 5.0
_CONNECT_SECONDS = 3.0
_MOST_ADDRESSES = 3


class _Failed(Exception):
    """The way ends here. `what` is told, with what to do."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what = what
        self.advice = advice


@dataclass
class Way:
    """The way to `endpoint`, which a location of this scheme has."""

    endpoint: str
    scheme: str
    verify: bool = True
    ca_bundle: str | None = None
    _details: dict[str, Any] = field(default_factory=dict)

    def step(self) -> Step:
        """Whether the endpoint can be reached, if need be through its proxy. Takes about SECONDS at most."""
        end = time.monotonic() + SECONDS
        url = urlsplit(self.endpoint)
        tls = url.scheme == "https"
        host, port = url.hostname or "", url.port or (443 if tls else 80)
        self._details["endpoint"] = printable(self.endpoint)
        try:
            proxy = find(url.scheme, host)
            if proxy is None:
                connection, summary = self._connect(host, port, "", _directly(url.scheme))
            else:
                connection, summary = self._tunnel(proxy, host, port, end)
            with connection:
                connection.settimeout(max(0.1, end - time.monotonic()))
                # TLS within the TLS of a proxy, and what SOCKS wants to hear, would be too much for a look.
                if not tls or (proxy is not None and proxy.kind != "http"):
                    return Step("network", "ok", summary, None, self._details)
                return self._handshake(connection, host, summary)
        except _Failed as failed:
            return Step("network", "fail", failed.what, failed.advice, self._details)

    def _tunnel(self, proxy: Proxy, host: str, port: int, end: float) -> tuple[socket.socket, str]:
        """A connection through the proxy."""
        self._details |= {"proxy": proxy.name, "proxy_variable": proxy.variable}
        mend = f"correct {proxy.variable}, or name {host} in no_proxy"
        if problem := proxy.problem():
            raise _Failed(problem, mend)
        through = f" through the proxy {proxy.name} ({proxy.variable})"
        default = "" if proxy.url.port else f"; without a port it is {proxy.port}"
        connection, summary = self._connect(proxy.host, proxy.port, through, f"{mend}{default}")
        if proxy.kind not in ("http", "https"):
            return connection, f"{summary}; what it allows was not asked"
        what = f"{summary}, but the proxy makes no tunnel to {host}:{port}"
        try:
            connection.settimeout(max(0.1, end - time.monotonic()))
            if proxy.kind == "https":
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=proxy.host)
            status, line = proxy.ask(connection, host, port)
        except OSError as error:
            connection.close()
            reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "reason", None)
            raise _Failed(f"{what}: {reason or error.strerror or type(error).__name__}", mend) from None
        except BaseException:
            connection.close()
            raise
        self._details["proxy_status"] = status
        if status is None or not 200 <= status < 300:
            connection.close()
            said = f"it answered {line!r}" if line else "it broke the connection"
            raise _Failed(f"{what}: {said}", _about_refusal(proxy, status, host, port))
        return connection, f"{summary}, which makes a tunnel to {host}:{port}"

    def _connect(self, host: str, port: int, through: str, advice: str) -> tuple[socket.socket, str]:
        """A connection to the endpoint or its proxy."""
        began = time.monotonic()
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            what = f"the name {host} cannot be resolved{through}"
            more = "" if through else "check the endpoint's name, the network and /etc/resolv.conf; "
            raise _Failed(what, f"{more}{advice}".removesuffix("; ")) from None
        addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
        self._details |= {"addresses": len(addresses), "dns_seconds": time.monotonic() - began}
        began = time.monotonic()
        problem = "there is no address"
        tried = addresses[:_MOST_ADDRESSES]
        for address in tried:
            try:
                connection = socket.create_connection((address, port), timeout=_CONNECT_SECONDS / len(tried))
                break
            except TimeoutError:
                problem = "no answer"
            except OSError as error:
                problem = error.strerror or type(error).__name__
        else:
            more = "" if through else "check the endpoint's host and port, and the firewalls in between; "
            what = f"{host}:{port} cannot be connected{through}: {problem}"
            raise _Failed(what, f"{more}{advice}".removesuffix("; "))
        took = self._details["connect_seconds"] = time.monotonic() - began
        many = f" has {len(addresses)} addresses" if len(addresses) > 1 else ""
        return connection, f"{host}:{port}{many}, connected in {seconds_text(took)}{through}"

    def _handshake(self, connection: socket.socket, host: str, summary: str) -> Step:
        try:
            context = ssl.create_default_context()
            if self.ca_bundle:
                is_folder = os.path.isdir(self.ca_bundle)
                context.load_verify_locations(*((None, self.ca_bundle) if is_folder else (self.ca_bundle, None)))
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            began = time.monotonic()
            with context.wrap_socket(connection, server_hostname=host) as secured:
                self._details |= {"tls": secured.version(), "tls_seconds": time.monotonic() - began}
        except ssl.SSLCertVerificationError as error:
            now = f"; it was checked against {self.ca_bundle}" if self.ca_bundle else ""
            advice = about_certificate(error.verify_message, self.scheme)
            raise _Failed(f"{summary}, but TLS fails: {error.verify_message}{now}", advice) from None
        except OSError as error:
            reason = "no answer" if isinstance(error, TimeoutError) else getattr(error, "reason", None)
            advice = "is this an https endpoint, and the CA bundle one?"
            raise _Failed(f"{summary}, but TLS fails: {reason or type(error).__name__}", advice) from None
        summary += f", {self._details['tls']} in {seconds_text(self._details['tls_seconds'])}"
        if not self.verify:
            advice = "anybody on the way can read and change what is loaded: leave out verify=False"
            return Step("network", "warn", f"{summary}, certificate not checked", advice, self._details)
        return Step("network", "ok", summary, None, self._details)


def _directly(scheme: str) -> str:
    """What to think of when the direct way is closed."""
    if scheme == "http" and os.environ.get("HTTP_PROXY"):
        return "HTTP_PROXY is set, which reading does not heed: write http_proxy"
    return ""


def _about_refusal(proxy: Proxy, status: int | None, host: str, port: int) -> str:
    if status is None:
        return f"is what {proxy.variable} names an HTTP proxy? Correct it, or name {host} in no_proxy"
    if status == 407:
        return f"it wants credentials: write {proxy.variable} as http://user:password@host:port, percent-encoded"
    if status in (408, 429) or status >= 500:
        return f"the proxy cannot reach it, or is busy: check the endpoint, or name {host} in no_proxy"
    return f"let the proxy allow CONNECT to port {port}, or name {host} in no_proxy"
