"""``http://`` and ``https://``: a file, or an index with its shards beside it. Servers have no listing.

storage_options: ``headers={"Authorization": "Bearer ..."}``, and those of the transport. Userinfo in the URL becomes an
Authorization header. Credentials go to the origin of the URL only, and over plain HTTP only with ``allow_plain_http``.

The query of a URL is requested and never shown. Shards of an index are requested with the index's query, as tokens and
shared access signatures for a folder need it; a query that is signed for the index alone cannot fetch its shards, which
is an error: then give the URLs of the shards as a list.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from .._errors import ConfigError
from . import names
from .description import Description
from .index import INDEX_SUFFIX
from .remote import Access, RemoteSource, Transport, guard_credentials, note_plain, printable
from .store import Entry, Store

OPTIONS = frozenset({"headers"})

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What makes a query good for one object only, in lower case.
_OF_ONE_OBJECT = frozenset({"x-amz-signature", "x-goog-signature", "signature", "versionid", "generation"})
# What makes it a secret, in lower case.
_SECRET = _OF_ONE_OBJECT - {"versionid", "generation"} | {"sig", "token", "access_token"}
# Set per request by the core.
_RESERVED = frozenset(
    {"range", "host", "if-match", "accept-encoding", "content-length", "transfer-encoding", "connection"}
)


def split(location: str) -> tuple[str, str]:
    """The URL of the folder with the query, and the last part of the path, as it is written."""
    try:
        url = urlsplit(location)
        host, _ = url.hostname, url.port
    except ValueError:
        host = None
    if not host:
        raise ConfigError("this is not a valid URL", source=printable(location))
    if re.search(r"[\x00-\x20\x7f-\U0010ffff\\]", location):
        raise ConfigError("the URL has a character that must be percent-encoded", source=printable(location))
    folder, _, key = url.path.rpartition("/")
    if not key:
        raise ConfigError(
            "a web server does not list its files; give the URL of a file or of an index "
            f"(*{INDEX_SUFFIX}), or a list of URLs",
            source=printable(location),
        )
    return urlunsplit((url.scheme.lower(), url.netloc, folder + "/", url.query, "")), key


def connect(root: str, options: Mapping[str, Any]) -> HttpStore:
    """Opens the folder of `root`."""
    transport = Transport.of(options)
    url = urlsplit(root)
    userinfo, _, host = url.netloc.rpartition("@")
    headers = _headers(options.get("headers"), printable(root))
    if userinfo:
        if any(name.lower() == "authorization" for name in headers):
            raise ConfigError("credentials are in the URL and in storage_options['headers']", source=printable(root))
        user, _, password = userinfo.partition(":")
        pair = f"{unquote(user)}:{unquote(password)}".encode()
        headers["Authorization"] = f"Basic {base64.b64encode(pair).decode()}"
    folder = urlunsplit((url.scheme, host, url.path, "", ""))
    if headers:
        guard_credentials(folder, transport, "the headers of a request")
    if any(name.lower() in _SECRET for name, _ in parse_qsl(url.query)):
        note_plain(folder, "a signature or token in the query travels")  # as it was asked for
    return HttpStore(folder, url.query, headers, transport)


def describe(root: str, key: str, options: Mapping[str, Any]) -> Description:
    """How the folder of a URL is reached."""
    connect(root, options).close()  # which checks them
    url = urlsplit(root)

    def credentials() -> str | None:
        found = []
        if "@" in url.netloc:
            found.append("user and password in the URL")
        if options.get("headers"):
            found.append(f"the headers {', '.join(options['headers'])} of storage_options")
        if url.query:
            found.append("the query of the URL, if it is signed")
        return " and ".join(found) or "none"

    host = url.netloc.rpartition("@")[2]
    return Description.of(printable(root), key, f"{url.scheme}://{host}", Transport.of(options), credentials)


class HttpStore(Store):
    """The files of one folder of a web server. Keys are percent-encoded, as they stand in the URL."""

    lists = False

    def __init__(self, folder: str, query: str, headers: Mapping[str, str], transport: Transport) -> None:
        self._folder = folder
        self._query = query
        self._headers = headers
        self._transport = transport

    def name(self, key: str) -> str:
        """The URL without its query."""
        return self._folder + key

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:  # noqa: ARG002
        """Nothing: there is only what is named."""
        return ()

    def find(self, key: str) -> Entry:
        """The first read finds out."""
        return Entry(key)

    def source(self, entry: Entry) -> RemoteSource:
        """The URL, with its query."""
        url = self._folder + entry.key + (f"?{self._query}" if self._query else "")
        return RemoteSource(self.name(entry.key), Access(url, self._headers), transport=self._transport)

    def sibling(self, index_key: str, shard: str) -> str:
        """The shard's name, percent-encoded.

        Raises:
            ConfigError: the query is signed for the index alone.

        """
        query = {name.lower(): value for name, value in parse_qsl(self._query, keep_blank_values=True)}
        # Of an Azure signature, sr=b means one blob; c, d and an account's signature are for more.
        if _OF_ONE_OBJECT & query.keys() or (query.get("sr") in ("b", "bv", "bs") and "sig" in query):
            raise ConfigError(
                "the query of this URL is for the index alone, and cannot fetch its shards; "
                "give the URLs of the shards as a list",
                source=self.name(index_key),
            )
        names.check_key(shard, self.name(index_key))
        return super().sibling(index_key, quote(shard))

    def plain(self, key: str) -> str:
        """Without percent-encoding."""
        return unquote(key)


def _headers(given: Any, where: str) -> dict[str, str]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(f"storage_options['headers'] must be a mapping, not {type(given).__name__}", source=where)
    for name, value in given.items():
        # Values are secrets, and are not repeated.
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigError(f"{name!r} is not the name of a header", source=where)
        if name.lower() in _RESERVED:
            raise ConfigError(f"the header {name} cannot be set: each request has its own", source=where)
        if not isinstance(value, str) or re.search(r"[\x00-\x08\x0a-\x1f\x7f]", value) or not value.isascii():
            raise ConfigError(f"the value of header {name} must be text without control characters", source=where)
    return dict(given)
