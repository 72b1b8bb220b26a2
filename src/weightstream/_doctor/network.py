"""The way to an endpoint: name, TCP, TLS. As plain as possible, to see which of them is at fault."""

from __future__ import annotations

import os
import socket
import ssl
import time
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from .._format import seconds_text
from ..sources.remote import printable
from .steps import Step

_SECONDS = 4.0
_MOST_ADDRESSES = 3


def reach(endpoint: str, *, verify: bool, ca_bundle: str | None) -> Step:
    """Whether the endpoint, or the proxy before it, can be reached."""
    url = urlsplit(endpoint)
    host = url.hostname or ""
    details: dict[str, Any] = {"endpoint": printable(endpoint)}
    through = ""
    proxy = _proxy(url.scheme, host)
    if proxy:
        details["proxy"] = printable(proxy)
        through = f" through the proxy {printable(proxy)}"
        near = urlsplit(proxy)
        host, port, tls = near.hostname or "", near.port or 80, False
    else:
        tls = url.scheme == "https"
        port = url.port or (443 if tls else 80)
    where = f"{host}:{port}"

    began = time.monotonic()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        advice = "check the endpoint's name, the network and /etc/resolv.conf"
        return Step("network", "fail", f"the name {host} cannot be resolved{through}", advice, details)
    addresses = list(dict.fromkeys(str(one[4][0]) for one in found))
    details |= {"addresses": len(addresses), "dns_seconds": time.monotonic() - began}

    began = time.monotonic()
    connection, problem = _connect(addresses[:_MOST_ADDRESSES], port)
    if connection is None:
        advice = "check the endpoint's host and port, and the firewalls in between"
        return Step("network", "fail", f"{where} cannot be connected{through}: {problem}", advice, details)
    details["connect_seconds"] = time.monotonic() - began
    summary = f"{where} has {len(addresses)} addresses" if len(addresses) > 1 else where
    summary += f", connected in {seconds_text(details['connect_seconds'])}{through}"
    with connection:
        if not tls:
            return Step("network", "ok", summary, None, details)
        return _handshake(connection, host, verify, ca_bundle, summary, details)


def _handshake(
    connection: socket.socket, host: str, verify: bool, ca_bundle: str | None, summary: str, details: dict[str, Any]
) -> Step:
    try:
        context = ssl.create_default_context()
        if ca_bundle:
            is_folder = os.path.isdir(ca_bundle)
            context.load_verify_locations(None if is_folder else ca_bundle, ca_bundle if is_folder else None)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        began = time.monotonic()
        with context.wrap_socket(connection, server_hostname=host) as secured:
            details |= {"tls": secured.version(), "tls_seconds": time.monotonic() - began}
    except ssl.SSLCertVerificationError as error:
        advice = "give the CA bundle of the endpoint with storage_options={'verify': PATH}, or set SSL_CERT_FILE"
        return Step("network", "fail", f"{summary}, but TLS fails: {error.verify_message}", advice, details)
    except OSError as error:
        reason = getattr(error, "reason", None) or type(error).__name__
        advice = "is this an https endpoint, and the CA bundle one?"
        return Step("network", "fail", f"{summary}, but TLS fails: {reason}", advice, details)
    summary += f", {details['tls']} in {seconds_text(details['tls_seconds'])}"
    if not verify:
        advice = "anybody on the way can read and change what is loaded: leave out verify=False"
        return Step("network", "warn", f"{summary}, certificate not checked", advice, details)
    return Step("network", "ok", summary, None, details)


def _connect(addresses: list[str], port: int) -> tuple[socket.socket | None, str]:
    problem = "there is no address"
    for address in addresses:
        try:
            return socket.create_connection((address, port), timeout=_SECONDS / len(addresses)), ""
        except TimeoutError:
            problem = "no answer"
        except OSError as error:
            problem = error.strerror or type(error).__name__
    return None, problem


def _proxy(scheme: str, host: str) -> str | None:
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
