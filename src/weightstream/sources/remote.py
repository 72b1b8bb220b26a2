"""What the control plane hands over: sources. A local file is a path; a remote one is a URL and how to reach it.

TLS certificates are checked against the first of these that is set: ``storage_options={"verify": PATH}``,
AWS_CA_BUNDLE or ``ca_bundle`` of the AWS profile (S3 only), REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE, and
else the system's store. A file that holds no certificate is an error by the name of what named it.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from .._errors import ConfigError

_log = logging.getLogger("weightstream")
_noted: set[tuple[str, str]] = set()

# The table "Numbers" of docs/design/remote.md: whether it is a whole number, and the least value. The defaults are the
# core's.
_NUMBERS: Mapping[str, tuple[bool, float]] = {
    "max_attempts": (True, 1),
    "connect_timeout": (False, 0.001),
    "connect_attempts": (True, 1),
    "backoff": (False, 0),
    "backoff_cap": (False, 0),
    "stall_seconds": (False, 0.001),
    "stall_bytes": (True, 0),
    "first_byte_seconds": (False, 0.001),
    "first_answer_seconds": (False, 0.001),
    "deadline": (False, 0.001),
    "hedge_seconds": (False, 0),
    "max_redirects": (True, 0),
}
_MOST = 2**31
_FIRST_ANSWER = 25.0  # seconds, the core's default
_SWITCHES = ("verify", "allow_plain_http")
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

TRANSPORT_OPTIONS = frozenset({"http", *_SWITCHES})


@dataclass(frozen=True)
class Access:
    """How to reach an object for a while. Both the query of the URL and the headers may be secrets: repr shows neither.

    Attributes:
        url: as it is requested.
        headers: sent with every request, to the origin of `url` only.
        expires_at: seconds since the epoch, or None when it does not end.
        redirected_by: the URL of a server that redirected to `url`; what redirects must not do counts for it then.

    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_at: float | None = None
    redirected_by: str | None = None

    def __repr__(self) -> str:
        return f"Access({printable(self.url)!r}, {len(self.headers)} headers, expires_at={self.expires_at})"


@dataclass(frozen=True)
class Transport:
    """The settings of HTTP and TLS for the core. `numbers` has those that were given, and the core the rest."""

    ca_bundle: str | None = None
    verify: bool = True
    allow_plain_http: bool = False
    numbers: Mapping[str, float] = field(default_factory=dict)
    ca_origin: str | None = None  # the option or variable that named the CA bundle

    @classmethod
    def of(cls, options: Mapping[str, Any], sdk_bundle: str | None = None) -> Transport:
        """From storage_options: ``http={NUMBER: ...}``, ``verify=False | PATH`` and ``allow_plain_http=True``.

        The two switches may also stand in ``http``. `sdk_bundle` is the CA bundle of the SDK's own configuration.

        Raises:
            ConfigError: an unknown name, a wrong type or a value out of bounds, or a CA bundle that cannot be used; it
                names the option or the variable.

        """
        given = options.get("http")
        if given is None:
            given = {}
        if not isinstance(given, Mapping):
            raise ConfigError(f"storage_options['http'] must be a mapping, not {type(given).__name__}")
        switches = {name: options[name] for name in _SWITCHES if options.get(name) is not None}
        numbers: dict[str, float] = {}
        for name, value in given.items():
            if name in _SWITCHES:
                if switches.setdefault(name, value) != value:
                    raise ConfigError(f"storage_options has {name!r} twice, with different values")
            elif name in _NUMBERS:
                numbers[name] = _number(name, value)
            else:
                known = ", ".join([*_NUMBERS, *_SWITCHES])
                raise ConfigError(f"storage_options['http'] has an unknown name {name!r}; there are {known}")
        if "first_answer_seconds" not in numbers and numbers.get("first_byte_seconds", 0) > _FIRST_ANSWER:
            # Whoever grants that much time to every answer grants it to the first.
            numbers["first_answer_seconds"] = numbers["first_byte_seconds"]
        allow_plain_http = switches.get("allow_plain_http", False)
        if not isinstance(allow_plain_http, bool):
            raise ConfigError(f"allow_plain_http must be True or False, not {type(allow_plain_http).__name__}")
        verify = switches.get("verify", True)
        if isinstance(verify, os.PathLike):
            verify = os.fspath(verify)
        if not isinstance(verify, (bool, str)):
            raise ConfigError(f"verify must be True, False or the path of a CA bundle, not {type(verify).__name__}")
        bundle, origin = _ca_bundle(verify, sdk_bundle) if verify else (None, None)
        return cls(bundle, bool(verify), allow_plain_http, numbers, origin)

    @property
    def sdk_verify(self) -> bool | str:
        """What requests, boto3 and azure-core take as `verify`: one rule for the SDKs and the core."""
        return self.ca_bundle or True if self.verify else False

    @property
    def trust(self) -> str | None:
        """What a certificate that an SDK does not trust was compared with; None for the system's."""
        if self.ca_bundle is None:
            return None
        origin = f" (from {self.ca_origin})" if self.ca_origin else ""
        return f"it was checked against the CA bundle {self.ca_bundle}{origin}, which must hold the CA that signed it"

    def options(self) -> dict[str, Any]:
        """As the core takes them."""
        bundle = {} if self.ca_bundle is None else {"ca_bundle": self.ca_bundle, "ca_origin": self.ca_origin or ""}
        return {**bundle, "verify": self.verify, "allow_plain_http": self.allow_plain_http, **self.numbers}


@dataclass(frozen=True)
class RemoteSource:
    """One object that is read over HTTP.

    Attributes:
        name: safe to print: no query and no userinfo.
        access: how to reach it now.
        size: bytes, or None until its first read.
        etag: as a listing gave it, with its quotes; None pins the version that the first read finds.
        renew: makes new access; it may take seconds and raises a WeightstreamError without secrets. None: cannot.
        transport: HTTP and TLS settings.

    """

    name: str
    access: Access
    size: int | None = None
    etag: str | None = None
    renew: Callable[[], Access] | None = field(default=None, repr=False, compare=False)
    transport: Transport = field(default_factory=Transport, repr=False)

    def core(self, renewals: Any = None) -> Any:
        """The object that the core reads; it asks for new access through `renewals`, if that can be made."""
        core: Any = import_module("weightstream._core")
        return core.HttpObject.make(
            name=self.name,
            url=self.access.url,
            headers=list(self.access.headers.items()),
            size=self.size,
            etag=self.etag,
            expires_at=self.access.expires_at,
            redirected_by=self.access.redirected_by,
            renewals=None if self.renew is None else renewals,
            options=self.transport.options(),
        )


@dataclass(frozen=True)
class LocalSource:
    """One local file."""

    path: str

    @property
    def name(self) -> str:
        """The path, as messages have it."""
        return self.path


Source: TypeAlias = LocalSource | RemoteSource


@dataclass(frozen=True)
class File:
    """One file of a location, as `pull` copies it.

    Attributes:
        key: where it lies below the location, with "/" between folders; checked, so that it stays below.
        size: bytes, or None when the storage did not say.
        source: where it is read from.
        version: another one when the contents are others, as an ETag or a generation; None where nothing says so.

    """

    key: str
    size: int | None
    source: Source
    version: str | None = None


def printable(url: str) -> str:
    """A URL without userinfo, query and fragment: fit for messages."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return url.partition("://")[0] + "://..."


def is_plain_elsewhere(url: str) -> bool:
    """Whether a request would travel unencrypted to another machine than this one."""
    parts = urlsplit(url)
    return parts.scheme == "http" and not _is_loopback(parts.hostname or "")


def guard_credentials(url: str, transport: Transport, what: str) -> None:
    """Refuses to send credentials unencrypted to another machine, unless that was asked for.

    Raises:
        ConfigError: naming the option that allows it.

    """
    if not is_plain_elsewhere(url):
        return
    if not transport.allow_plain_http:
        raise ConfigError(
            f"{what} would travel unencrypted; use https, or storage_options={{'allow_plain_http': True}}",
            source=printable(url),
        )
    note_plain(url, f"{what} travels")


def check_endpoint(given: Any, said: str, source: str) -> str:
    """The endpoint that `said` gives, without a slash at its end.

    Raises:
        ConfigError: it does not say whether it is http or https; naming `said`.

    """
    endpoint = str(given).rstrip("/")
    if not re.match("https?://.", endpoint, re.IGNORECASE):
        # It may hold a user and a password, or a signature.
        shown = "" if re.search("[@?]", endpoint) else f", not {endpoint!r}"
        raise ConfigError(f"{said} must begin with https:// or http://{shown}; write it in front", source=source)
    return endpoint


def note_plain(url: str, what: str) -> None:
    """Warns of what travels unencrypted to another machine, once a process."""
    if is_plain_elsewhere(url) and (url, what) not in _noted:
        _noted.add((url, what))
        _log.warning("%s: %s unencrypted", printable(url), what)


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _number(name: str, value: Any) -> float:
    whole, least = _NUMBERS[name]
    kind = "a whole number" if whole else "a number"
    what = f"storage_options['http'][{name!r}]"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise ConfigError(f"{what} must be {kind}, not {type(value).__name__}")
    if math.isnan(value) or not least <= value < _MOST:
        raise ConfigError(f"{what}={value!r} must be {kind} of at least {least:g} and less than {_MOST}")
    return value if whole else float(value)


def _ca_bundle(verify: bool | str, sdk_bundle: str | None) -> tuple[str | None, str | None]:
    """The path of the CA bundle and what named it; nothing for the system's."""
    if isinstance(verify, str):
        path, said = verify, "verify"
    elif sdk_bundle:
        of_variable = os.environ.get("AWS_CA_BUNDLE") == sdk_bundle
        path, said = sdk_bundle, "AWS_CA_BUNDLE" if of_variable else "ca_bundle of the AWS profile"
    else:
        said = next((variable for variable in _CA_VARIABLES if os.environ.get(variable)), "")
        if not said:
            return None, None
        path = os.environ[said]
    path = os.path.expanduser(path)
    if not os.path.exists(path):
        raise ConfigError(f"{said} names a CA bundle that is not there: {path}")
    _check_bundle(path, said)
    return path, said


def _check_bundle(path: str, said: str) -> None:
    """Refuses a file without certificates, which every SDK would call something else. Of a folder nothing is known."""
    if not os.path.isfile(path):
        return
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        reason = f": {error.reason.lower().replace('_', ' ')}" if error.reason else ""
        raise ConfigError(
            f"{said} names a file that is no CA bundle: {path}{reason}; it must hold certificates as PEM"
        ) from None
    except OSError as error:
        raise ConfigError(f"{said} names a CA bundle that cannot be read: {path}: {error.strerror}") from None
