"""What a storage service or the way to it said, as one of our errors. Each backend's SDK errors come through here."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .._errors import (
    AuthError,
    ConfigError,
    NotFoundError,
    ProtocolError,
    ServerError,
    SourceChangedError,
    ThrottledError,
    TimeoutError,
    WeightstreamError,
)

_KINDS: dict[int, type[WeightstreamError]] = {
    401: AuthError,
    403: AuthError,
    404: NotFoundError,
    408: TimeoutError,
    410: NotFoundError,
    412: SourceChangedError,
    429: ThrottledError,
    503: ThrottledError,
}

# By the beginning of a module's name: the package that pip installs it with, where that is called otherwise.
_PACKAGES = {
    "azure.core": "azure-core",
    "azure.identity": "azure-identity",
    "azure.storage.blob": "azure-storage-blob",
    "google.auth": "google-auth",
}

# What an exception chain holds, by the names that urllib3, requests, httpx, botocore and ssl give: what went wrong.
_UNNAMED = "its name cannot be resolved"
_UNTRUSTED = "its TLS certificate is not trusted"
_UNREACHABLE = (
    (("CERTIFICATE_VERIFY_FAILED", "certificate verify failed"), _UNTRUSTED),
    (("SSLError", "SSLV3", "SSL:", "TLSV1"), "the TLS handshake failed"),
    (("NameResolutionError", "gaierror", "Failed to resolve", "Name or service not known", "getaddrinfo"), _UNNAMED),
    (("Connection refused", "ConnectionRefused"), "it refused the connection"),
    (("RemoteDisconnected", "ConnectionReset", "RemoteProtocolError", "IncompleteRead"), "it broke the connection"),
    (("ProxyError", "ProxyConnectionError"), "the proxy cannot be reached"),
    (("ConnectTimeout",), "it did not answer in time"),
    (("ReadTimeout", "timed out", "Timeout"), "it did not answer in time"),
)
_HINTS = {
    _UNTRUSTED: "give its CA bundle with storage_options={'verify': PATH}",
    "the TLS handshake failed": "is this an https endpoint?",
    _UNNAMED: "check the endpoint's name, and the network",
    "it refused the connection": "check the endpoint's host and port",
    "it broke the connection": "check that the endpoint is one of this storage",
    "the proxy cannot be reached": "check HTTPS_PROXY and NO_PROXY",
    "it did not answer in time": "check the endpoint, the network and its firewalls",
}


def answered(
    status: int,
    what: str,
    *,
    source: str,
    code: str | None = None,
    request_id: str | None = None,
    attempts: int | None = None,
    kind: type[WeightstreamError] | None = None,
    hint: str | None = None,
) -> WeightstreamError:
    """An answer that is a refusal. `what` failed; `hint` says what to do about it."""
    if kind is None:
        kind = _KINDS.get(status) or (ServerError if status >= 500 else ProtocolError)
    if kind is ThrottledError and hint is None:
        hint = "the service is busy or asks to slow down: try again later, or start fewer processes at once"
    return kind(
        f"{what}; {hint}" if hint else what,
        source=source,
        status=status or None,
        service_code=code or None,
        request_id=request_id or None,
        attempts=attempts,
    )


def unreachable(error: BaseException, *, source: str, endpoint: str, trust: str | None = None) -> WeightstreamError:
    """No answer at all. The text of `error` may repeat a signed URL, so only what it means is told.

    `trust` says what to do about a certificate of a private CA; None: to name it.
    """
    said = _chain(error)
    for marks, problem in _UNREACHABLE:
        if any(mark in said for mark in marks):
            kind = TimeoutError if "in time" in problem else ServerError
            hint = (trust if problem == _UNTRUSTED else None) or _HINTS[problem]
            return kind(f"cannot reach {endpoint}: {problem}; {hint}", source=source)
    return ServerError(f"cannot reach {endpoint}: {type(error).__name__}", source=source)


def is_name_or_trust(error: BaseException) -> bool:
    """Whether its text says that a name cannot be resolved, or a certificate is not trusted."""
    said = _chain(error)
    return any(mark in said for marks, problem in _UNREACHABLE if problem in (_UNTRUSTED, _UNNAMED) for mark in marks)


def sdk(module: str, extra: str, scheme: str) -> Any:
    """Imports a module of an SDK.

    Raises:
        ConfigError: it, or a package that it needs, is not installed; the command that does it is in the message.

    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None:
            raise
        missing = module if f"{module}.".startswith(f"{error.name}.") else error.name
        raise ConfigError(
            f"{scheme}:// needs the package {_package(missing)}: pip install 'weightstream[{extra}]'"
        ) from None


def _package(module: str) -> str:
    """What pip calls the package that a module is in."""
    found = (package for name, package in _PACKAGES.items() if f"{module}.".startswith(f"{name}."))
    return next(found, module.partition(".")[0])


def _chain(error: BaseException) -> str:
    """Names and texts of an exception and all that it came from."""
    said: list[str] = []
    seen: set[int] = set()
    waiting: list[Any] = [error]
    while waiting and len(seen) < 50:
        one = waiting.pop()
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        said.append(f"{type(one).__name__} {one}")
        waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), getattr(one, "inner_exception", None)]
        waiting += [part for part in one.args if isinstance(part, BaseException)]
        kwargs = getattr(one, "kwargs", None)  # of botocore
        if isinstance(kwargs, dict):
            waiting.append(kwargs.get("error"))
    return " ".join(said)
