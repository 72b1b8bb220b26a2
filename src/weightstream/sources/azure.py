"""``az://container/blob``: Azure Blob Storage, through azure-storage-blob and azure-identity.

The account is in the location (``az://container@account.blob.core.windows.net/blob``, and ``abfs://`` and ``abfss://``
of the same form, with ``.dfs.`` too), or in storage_options (`account_url` or `account_name`), or in
AZURE_STORAGE_ACCOUNT_NAME. Credentials are the first of these that is given: `credential` (an object of
azure-identity), `connection_string`, `account_key`, `sas_token`, or `anonymous`; the same in the environment, as
AZURE_STORAGE_CONNECTION_STRING, AZURE_STORAGE_ACCOUNT_KEY (or AZURE_STORAGE_KEY) and AZURE_STORAGE_SAS_TOKEN; and else
azure-identity's default chain.

Blobs are read with what the credentials allow: an account key signs a URL for each blob, which ends after an hour and
is made anew; a token of azure-identity goes as a header, and is made anew before it ends; a given SAS is used as it is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .._errors import AuthError, ConfigError, NotFoundError, ServerError, WeightstreamError
from . import failures
from .description import ANONYMOUS, Description
from .keys import check_location_key
from .remote import Access, RemoteSource, Transport, check_endpoint, guard_credentials, printable
from .store import Entry, Store

_CREDENTIALS = ("credential", "connection_string", "account_key", "sas_token", "anonymous")
OPTIONS = frozenset({"account_url", "account_name", *_CREDENTIALS})

_LIFETIME = 3600  # seconds for which a URL is signed
_SCOPE = "https://storage.azure.com/.default"
# The first that takes bearer tokens and blobs of every size; a request with a token must name one.
_API_VERSION = "2021-12-02"
_CONTAINER = re.compile(r"\$?[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_VARIABLES = {
    "connection_string": ("AZURE_STORAGE_CONNECTION_STRING",),
    "account_key": ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY"),
    "sas_token": ("AZURE_STORAGE_SAS_TOKEN",),
}
_IGNORED = (
    f"; {_VARIABLES['connection_string'][0]} is set but not used, as it names an account of its own and the location "
    "or storage_options name one too: leave that out, or pass the string as storage_options={'connection_string': ...}"
)
# Two tries with these stay below 30 seconds; the SDK's own waits begin with 15. The service redirects nobody, so who
# does is somebody else, and might lead anywhere.
_CLIENT = {"connection_timeout": 5, "read_timeout": 8, "user_agent": "weightstream", "permit_redirects": False}
_RETRY = {"retry_total": 1, "initial_backoff": 1, "increment_base": 1, "random_jitter_range": 1}


def split(location: str) -> tuple[str, str]:
    """The container, with "@" and a host if there is one, and the name or prefix of blobs."""
    root, _, key = location.partition("://")[2].partition("/")
    container, _, host = root.partition("@")
    if not _CONTAINER.fullmatch(container) or ("@" in root and not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", host)):
        raise ConfigError(
            "this is not of the form az://container/blob or az://container@account.blob.core.windows.net/blob"
        )
    check_location_key(key, location)
    return root, key


def connect(root: str, options: Mapping[str, Any]) -> AzureStore:
    """Opens the container of `root`."""
    store = _open(root, options)
    store.check_token()  # here, where a chain that finds nothing is asked only once
    return store


def describe(root: str, key: str, options: Mapping[str, Any]) -> Description:
    """How a container is reached."""
    with _open(root, options) as store:
        kind, _ = _credential(options, f"az://{root}")
        return store.describe(key, kind, options)


def _open(root: str, options: Mapping[str, Any]) -> AzureStore:
    """Without a token yet: nothing is asked over the network."""
    blob = failures.sdk("azure.storage.blob", "azure", "az")
    container, _, host = root.partition("@")
    where = f"az://{root}"
    transport = Transport.of(options)
    kind, secret = _credential(options, where)
    account_url = _account_url(host, options, where)
    if account_url is None and kind != "connection_string":
        raise ConfigError(
            "which storage account? Give storage_options={'account_name': ...}, set AZURE_STORAGE_ACCOUNT_NAME, or "
            f"write az://{container}@ACCOUNT.blob.core.windows.net/...",
            source=where,
        )
    retry = blob.ExponentialRetry(**_RETRY)
    settings = {**_CLIENT, "connection_verify": transport.sdk_verify, "retry_policy": retry}
    credential: Any = None
    if kind == "account_key":
        credential = {"account_name": _account_name(account_url or ""), "account_key": secret}
    elif kind == "sas_token":
        credential = str(secret).lstrip("?")
    elif kind == "credential":
        if (account_url or "").startswith("http:"):
            raise ConfigError(
                "a token would travel unencrypted, which Azure does not take; use https, or an account_key "
                "or sas_token with allow_plain_http",
                source=where,
            )
        credential = secret or _default_credential()
    try:
        if kind == "connection_string":
            client = blob.ContainerClient.from_connection_string(secret, container, **settings)
        else:
            client = blob.ContainerClient(account_url, container, credential=credential, **settings)
    except (ValueError, TypeError):
        # Its message may repeat a key.
        raise ConfigError(f"the {kind.replace('_', ' ')} is malformed", source=where) from None
    if kind != "anonymous":
        guard_credentials(client.url, transport, "a signature or token")
    ignored = kind == "credential" and not secret and os.environ.get(_VARIABLES["connection_string"][0])
    note = _IGNORED if ignored else ""
    token_credential = credential if kind == "credential" else None
    return AzureStore(client, where, token_credential, transport, anonymous=kind == "anonymous", note=note)


class AzureStore(Store):
    """One container."""

    def __init__(
        self, client: Any, where: str, token_credential: Any, transport: Transport, *, anonymous: bool, note: str
    ) -> None:
        self._anonymous = anonymous
        self._note = note  # for errors of credentials: what was not used, and why
        self._client = client
        self._where = where
        self._endpoint = printable(client.url).rpartition("/")[0]
        self._token_credential = token_credential
        # Of an account key, whether it was given alone or in a connection string.
        self._account = getattr(client.credential, "account_name", None)
        self._key = getattr(client.credential, "account_key", None)
        self._transport = transport

    def check_token(self) -> None:
        """Makes the first token, if tokens are the credentials.

        Raises:
            AuthError: there are no usable credentials.

        """
        try:
            if self._token_credential is not None:
                self._token_credential.get_token(_SCOPE)
        except Exception as error:
            raise self._translated(error, "", "make a token") from None

    def describe(self, key: str, kind: str, options: Mapping[str, Any]) -> Description:
        """How it is reached, with credentials of this kind."""

        def credentials() -> str | None:
            if kind == "anonymous":
                return ANONYMOUS
            self.check_token()
            if options.get(kind):
                return f"{kind} in storage_options"
            for variable in _VARIABLES.get(kind, ()):
                if os.environ.get(variable):
                    return f"{variable} in the environment"
            return "the default chain of azure-identity"

        return Description.of(self._where, key, self._endpoint, self._transport, credentials)

    def name(self, key: str) -> str:
        """As an az:// URL."""
        return f"{self._where}/{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        """By List Blobs."""
        folder_type = failures.sdk("azure.storage.blob", "azure", "az").BlobPrefix
        try:
            if recursive:
                listed = self._client.list_blobs(name_starts_with=prefix)
            else:
                listed = self._client.walk_blobs(name_starts_with=prefix, delimiter="/")
            for found in listed:
                if not isinstance(found, folder_type):
                    yield Entry(found.name, found.size, _quoted(found.etag))
        except Exception as error:
            raise self._translated(error, prefix, "list the container") from None

    def find(self, key: str) -> Entry:
        """By Get Blob Properties."""
        try:
            found = self._client.get_blob_client(key).get_blob_properties()
        except Exception as error:
            raise self._translated(error, key, "read the blob") from None
        return Entry(key, found.size, _quoted(found.etag))

    def source(self, entry: Entry) -> RemoteSource:
        """By a signed URL or a bearer token."""
        url = self._client.get_blob_client(entry.key).url  # with the SAS, if that is the credential
        renew = None if not self._key and self._token_credential is None else lambda: self._access(url, entry.key)
        access = self._access(url, entry.key)
        return RemoteSource(self.name(entry.key), access, entry.size, entry.etag, renew, self._transport)

    def close(self) -> None:
        """Closes the connections. Signing needs none, and tokens come by others."""
        self._client.close()

    def _access(self, url: str, key: str) -> Access:
        try:
            if self._token_credential is not None:
                token = self._token_credential.get_token(_SCOPE)
                headers = {"Authorization": f"Bearer {token.token}", "x-ms-version": _API_VERSION}
                return Access(url, headers, float(token.expires_on))
            if self._key:
                blob = failures.sdk("azure.storage.blob", "azure", "az")
                ends = int(time.time()) + _LIFETIME
                sas = blob.generate_blob_sas(
                    self._account,
                    self._client.container_name,
                    key,
                    account_key=self._key,
                    permission=blob.BlobSasPermissions(read=True),
                    expiry=datetime.fromtimestamp(ends, timezone.utc),
                )
                return Access(f"{url}?{sas}", {}, float(ends))
        except Exception as error:
            raise self._translated(error, key, "sign a URL") from None
        return Access(url, {}, _sas_expiry(url))

    def _translated(self, error: Exception, key: str, doing: str) -> WeightstreamError:
        if isinstance(error, WeightstreamError):
            return error
        exceptions = failures.sdk("azure.core.exceptions", "azure", "az")
        source = self.name(key)
        response = getattr(error, "response", None)
        if isinstance(error, exceptions.HttpResponseError) and response is not None and error.status_code:
            return self._refused(error, source, doing)
        if isinstance(error, exceptions.ClientAuthenticationError):  # nothing was asked yet
            if self._key:
                return ConfigError("the account key is malformed: it is not base64", source=source)
            return self._no_token(error, source)
        if isinstance(error, exceptions.AzureError):
            return failures.unreachable(error, source=source, endpoint=self._endpoint)
        if isinstance(error, ValueError):  # a key that is not base64, for one; the text may repeat it
            return ConfigError(f"cannot {doing}: the account key is malformed", source=source)
        return ServerError(f"cannot {doing} at {self._endpoint}: {type(error).__name__}", source=source)

    def _no_token(self, error: Exception, source: str) -> WeightstreamError:
        # The chain tells causes in the text of its one exception only. Its metadata service has an address and no TLS.
        problem = failures.unreachable(
            error,
            source=source,
            endpoint=f"Azure's login service ({_authority()})",
            trust="set REQUESTS_CA_BUNDLE to its CA bundle",
        )
        if failures.is_name_or_trust(error):
            return problem
        return AuthError(
            "there are no usable Azure credentials; run `az login`, or give an account_key, a sas_token or a "
            f"connection_string, or for a public container storage_options={{'anonymous': True}}{self._note}",
            source=source,
        )

    def _refused(self, error: Any, source: str, doing: str) -> WeightstreamError:
        status = int(error.status_code)
        headers = error.response.headers
        code = getattr(error, "error_code", None) or headers.get("x-ms-error-code") or ""
        code = str(getattr(code, "value", code))
        container = f"container {self._client.container_name!r} at {self._endpoint}"
        what, hint = f"cannot {doing}: {container}", None
        denied = status in (401, 403) or code == "PublicAccessNotPermitted"
        if 300 <= status < 400:
            hint = "it redirects, as no Azure does: check account_url, and whether a proxy stands in between"
        elif self._anonymous and denied:
            hint = "this container is not public, or a firewall refuses this network: leave out anonymous, and log in"
        elif self._anonymous and code in ("ContainerNotFound", "ResourceNotFound"):
            what = f"there is no {container}, or it is not public"
            hint = "check its name and the account, and leave out anonymous if it is private"
        elif code == "ContainerNotFound":
            what, hint = f"there is no {container}", "check its name and the account; a private one looks like this too"
        elif status == 404:
            what, hint = f"there is no such blob in {container}", "check its name"
        elif code == "AuthenticationFailed":
            hint = "the account key, SAS or token is wrong or has expired"
        elif code == "AuthorizationFailure":
            hint = "the account key or SAS is wrong, has expired or may not do this, or a firewall refuses this network"
        elif code in ("AuthorizationPermissionMismatch", "AuthorizationResourceTypeMismatch"):
            hint = "this identity needs the role Storage Blob Data Reader, or a SAS that may read and list"
        elif code in ("NoAuthenticationInformation", "PublicAccessNotPermitted") or status in (401, 403, 409):
            hint = "check the credentials: this container is not public, or a firewall refuses this network"
        if denied and hint:
            hint += self._note
        return failures.answered(
            status,
            what,
            source=source,
            code=code,
            request_id=headers.get("x-ms-request-id"),
            kind=NotFoundError if status == 404 else AuthError if denied else None,
            hint=hint,
        )


def _credential(options: Mapping[str, Any], where: str) -> tuple[str, Any]:
    """Which kind, and the secret."""
    given = [name for name in _CREDENTIALS if options.get(name)]
    if len(given) > 1:
        raise ConfigError(f"storage_options has {' and '.join(given)}; give one of them", source=where)
    if given:
        if given[0] == "credential" and not hasattr(options["credential"], "get_token"):
            raise ConfigError("storage_options['credential'] must be an object of azure-identity", source=where)
        return given[0], options[given[0]]
    for kind, variables in _VARIABLES.items():
        # A connection string names an account of its own.
        if kind == "connection_string" and ("@" in where or options.get("account_url") or options.get("account_name")):
            continue
        for variable in variables:
            if os.environ.get(variable):
                return kind, os.environ[variable]
    return "credential", None


def _default_credential() -> Any:
    identity = failures.sdk("azure.identity", "azure", "az")
    return identity.DefaultAzureCredential(
        process_timeout=8,
        connection_timeout=3,
        read_timeout=5,
        retry_total=1,
        exclude_interactive_browser_credential=True,
    )


def _authority() -> str:
    given = os.environ.get("AZURE_AUTHORITY_HOST") or "login.microsoftonline.com"
    return urlsplit(given if "://" in given else f"https://{given}").hostname or "its host"


def _account_url(host: str, options: Mapping[str, Any], where: str) -> str | None:
    if host:
        return f"https://{host.replace('.dfs.', '.blob.')}" if "." in host else _url_of_account(host)
    if options.get("account_url"):
        return check_endpoint(options["account_url"], "storage_options['account_url']", where)
    name = (
        options.get("account_name")
        or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
        or os.environ.get("AZURE_STORAGE_ACCOUNT")
    )
    return _url_of_account(str(name)) if name else None


def _url_of_account(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9]{3,24}", name):
        raise ConfigError(f"{name!r} is not the name of a storage account")
    return f"https://{name}.blob.core.windows.net"


def _account_name(account_url: str) -> str:
    """The first label of the host; of an emulator, which has an address, the first part of the path."""
    url = urlsplit(account_url)
    path = url.path.strip("/")
    return path.partition("/")[0] if path else (url.hostname or "").partition(".")[0]


def _quoted(etag: str | None) -> str | None:
    """Listings leave out the quotes that If-Match needs."""
    if not etag:
        return None
    return etag if etag.startswith(('"', "W/")) else f'"{etag}"'


def _sas_expiry(url: str) -> float | None:
    ends = parse_qs(urlsplit(url).query).get("se")
    if not ends:
        return None
    try:
        moment = datetime.fromisoformat(ends[0].replace("Z", "+00:00"))
    except ValueError:
        return None
    return moment.replace(tzinfo=moment.tzinfo or timezone.utc).timestamp()
