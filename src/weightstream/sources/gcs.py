"""``gs://bucket/object``: Google Cloud Storage, by its JSON API with the credentials of google-auth.

google-auth finds credentials as it does everywhere: GOOGLE_APPLICATION_CREDENTIALS, gcloud's application default
credentials, workload identity, the metadata server. storage_options: `credentials` (a google.auth object),
`credentials_file` (a path), `anonymous` for public buckets, `user_project` (who pays), `endpoint_url`.
STORAGE_EMULATOR_HOST names an emulator, which is asked without credentials unless some are given.

Objects are read with a bearer token, which is made anew before it ends. A listing's generation is demanded of every
answer, so that an object that is replaced is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from datetime import timezone
from typing import Any
from urllib.parse import quote, urlencode

from .._errors import NotFoundError, WeightstreamError
from . import failures, gcs_credentials
from .description import ANONYMOUS, Description
from .keys import split_bucket
from .remote import Access, RemoteSource, Transport, check_endpoint, guard_credentials
from .store import Entry, Store

OPTIONS = frozenset({"credentials", "credentials_file", "anonymous", "user_project", "endpoint_url"})

_ENDPOINT = "https://storage.googleapis.com"
_TIMEOUT = (5, 8)  # seconds: to connect, and between bytes
_BACKOFF = 0.5  # seconds, doubled for each further try
_PAGE = 1000


def split(location: str) -> tuple[str, str]:
    """The bucket, and the name or prefix of objects."""
    return split_bucket(location, "gs://bucket/object")


def connect(root: str, options: Mapping[str, Any]) -> Store:
    """Opens `root`, a bucket."""
    where = f"gs://{root}"
    requests = failures.sdk("requests", "gcs", "gs")
    auth_requests = failures.sdk("google.auth.transport.requests", "gcs", "gs")
    transport = Transport.of(options)
    endpoint = _endpoint(options, where)
    plain = requests.Session()
    _prepare(plain, transport)
    credentials = gcs_credentials.find(options, auth_requests.Request(plain), where)
    if credentials is None:
        session = plain
    else:
        guard_credentials(endpoint, transport, "the bearer token")
        session = auth_requests.AuthorizedSession(credentials, auth_request=auth_requests.Request(plain))
        _prepare(session, transport)
    return GcsStore(root, endpoint, session, plain, credentials, transport, options.get("user_project"))


def describe(root: str, key: str, options: Mapping[str, Any]) -> Description:
    """How a bucket is reached."""
    requests = failures.sdk("requests", "gcs", "gs")
    auth_requests = failures.sdk("google.auth.transport.requests", "gcs", "gs")
    where = f"gs://{root}"
    transport = Transport.of(options)

    def credentials() -> str | None:
        with requests.Session() as plain:
            _prepare(plain, transport)
            found = gcs_credentials.find(options, auth_requests.Request(plain), where)
        if options.get("anonymous"):
            return ANONYMOUS
        if found is None:
            ignored = os.environ.get(gcs_credentials.VARIABLE)
            more = f"; {gcs_credentials.VARIABLE} does not count then" if ignored else ""
            return f"none, as STORAGE_EMULATOR_HOST names an emulator{more}"
        for name in ("credentials", "credentials_file"):
            if options.get(name):
                return f"{name} in storage_options"
        if os.environ.get(gcs_credentials.VARIABLE):
            return f"the file that {gcs_credentials.VARIABLE} names"
        if "compute_engine" in type(found).__module__:
            return "the metadata server of the machine"
        return "application default credentials of gcloud"

    return Description.of(where, key, _endpoint(options, where), transport, credentials)


class GcsStore(Store):
    """One bucket."""

    def __init__(
        self,
        bucket: str,
        endpoint: str,
        session: Any,
        plain: Any,
        credentials: Any,
        transport: Transport,
        user_project: str | None,
    ) -> None:
        self._bucket = bucket
        self._endpoint = endpoint
        self._session = session
        self._plain = plain
        self._credentials = credentials
        self._transport = transport
        self._project = {"userProject": user_project} if user_project else {}

    def name(self, key: str) -> str:
        """As a gs:// URL."""
        return f"gs://{self._bucket}/{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        """By the list request of the JSON API."""
        query = {"prefix": prefix, "maxResults": str(_PAGE), "fields": "items(name,size,generation),nextPageToken"}
        if not recursive:
            query["delimiter"] = "/"
        while True:
            page = self._get(f"{self._objects()}?{urlencode({**query, **self._project})}", prefix, "list the bucket")
            for found in page.get("items", ()):
                yield _entry(found)
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def find(self, key: str) -> Entry:
        """By the object's metadata."""
        query = urlencode({"fields": "name,size,generation", **self._project})
        return _entry(self._get(f"{self._objects()}/{quote(key, safe='')}?{query}", key, "read the object"))

    def source(self, entry: Entry) -> RemoteSource:
        """By the media URL."""
        version = {"ifGenerationMatch": entry.version} if entry.version else {}
        query = urlencode({"alt": "media", **version, **self._project})
        url = f"{self._objects()}/{quote(entry.key, safe='')}?{query}"
        renew = None if self._credentials is None else lambda: self._access(url, entry.key, anew=True)
        access = self._access(url, entry.key, anew=False)
        return RemoteSource(self.name(entry.key), access, entry.size, None, renew, self._transport)

    def close(self) -> None:
        """Closes idle connections; the sessions open them again when they need them."""
        self._session.close()
        self._plain.close()

    def _objects(self) -> str:
        return f"{self._endpoint}/storage/v1/b/{quote(self._bucket, safe='')}/o"

    def _access(self, url: str, key: str, anew: bool) -> Access:
        if self._credentials is None:
            return Access(url)
        headers: dict[str, str] = {}
        try:
            if anew or not self._credentials.valid:
                request = failures.sdk("google.auth.transport.requests", "gcs", "gs").Request(self._plain)
                self._credentials.refresh(request)
            self._credentials.apply(headers)
        except Exception as error:
            raise self._translated(error, key) from None
        finally:
            if anew:
                self._plain.close()
        expiry = self._credentials.expiry
        if expiry is None:
            return Access(url, headers)
        return Access(url, headers, expiry.replace(tzinfo=expiry.tzinfo or timezone.utc).timestamp())

    def _get(self, url: str, key: str, doing: str) -> Mapping[str, Any]:
        try:
            response = self._session.get(url, timeout=_TIMEOUT, allow_redirects=False)
        except Exception as error:
            raise self._translated(error, key) from None
        if response.status_code != 200:
            raise self._refused(response, key, doing)
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise failures.answered(
                200,
                f"{self._endpoint} is no Cloud Storage: it answered something else than JSON",
                source=self.name(key),
            )
        return body

    def _refused(self, response: Any, key: str, doing: str) -> WeightstreamError:
        said = _reason(response)
        at = f"bucket {self._bucket!r} at {self._endpoint}"
        what, hint = f"cannot {doing}: {at}", None
        status = response.status_code
        if status == 404 and (doing == "list the bucket" or "bucket does not exist" in said.message.lower()):
            what, hint = f"there is no {at}", "check its name and the endpoint"
        elif status == 404:
            what, hint = f"there is no such object in {at}", "check its name"
        elif status in (401, 403) and self._credentials is None:
            hint = "it is not public: leave out anonymous, and log in with `gcloud auth application-default login`"
        elif status == 401:
            hint = gcs_credentials.NOT_RENEWED
            if gcs_credentials.can_renew(self._credentials):
                hint = "the credentials are not valid any more: log in again"
        elif status == 403:
            action = "storage.objects.list" if doing == "list the bucket" else "storage.objects.get"
            hint = f"this identity needs {action}"
        elif 300 <= status < 400:
            hint = "it redirects, as no Cloud Storage does: check the endpoint, and whether a proxy stands in between"
        elif status == 400 and "requester pays" in said.message.lower():
            hint = "give storage_options={'user_project': PROJECT}"
        return failures.answered(
            status,
            what,
            source=self.name(key),
            code=said.reason,
            request_id=response.headers.get("x-guploader-uploadid"),
            attempts=_attempts(response),
            kind=NotFoundError if status == 404 else None,
            hint=hint,
        )

    def _translated(self, error: Exception, key: str) -> WeightstreamError:
        return gcs_credentials.translated(error, self.name(key), self._endpoint, self._credentials)


def _attempts(response: Any) -> int | None:
    """How often urllib3 asked, to get this answer."""
    retries = getattr(response.raw, "retries", None)
    return None if retries is None else 1 + len(retries.history)


class _Reason:
    """The service's own words: `message` is only looked at, never repeated."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        self.message = message


def _reason(response: Any) -> _Reason:
    try:
        error = response.json()["error"]
        return _Reason(str(error["errors"][0]["reason"]), str(error.get("message", "")))
    except (ValueError, LookupError, TypeError, AttributeError):
        return _Reason("", "")


def _entry(found: Mapping[str, Any]) -> Entry:
    size = found.get("size")
    generation = found.get("generation")
    return Entry(
        found["name"], None if size is None else int(size), version=None if not generation else str(generation)
    )


def _prepare(session: Any, transport: Transport) -> None:
    adapters = failures.sdk("requests.adapters", "gcs", "gs")
    retry = failures.sdk("urllib3.util.retry", "gcs", "gs")
    policy = retry.Retry(
        total=2,
        connect=1,
        read=1,
        backoff_factor=_BACKOFF,
        status_forcelist=(408, 429, 500, 502, 503, 504),
        respect_retry_after_header=False,  # it could ask for more than our half minute
        raise_on_status=False,
    )

    class Adapter(adapters.HTTPAdapter):  # type: ignore[name-defined,misc]
        # A session's own `verify` gives way to REQUESTS_CA_BUNDLE, which Transport has already weighed.
        def send(self, request: Any, **settings: Any) -> Any:
            return super().send(request, **{**settings, "verify": transport.sdk_verify})

    session.mount("https://", Adapter(max_retries=policy))
    session.mount("http://", Adapter(max_retries=policy))


def _endpoint(options: Mapping[str, Any], where: str) -> str:
    given = options.get("endpoint_url")
    if given:
        return check_endpoint(given, "storage_options['endpoint_url']", where)
    endpoint = str(os.environ.get(gcs_credentials.EMULATOR) or _ENDPOINT).rstrip("/")
    return endpoint if "://" in endpoint else f"http://{endpoint}"  # an emulator's, as Google's tools take it
