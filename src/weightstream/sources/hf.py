"""``hf://org/model[@revision][/path]``: the Hugging Face Hub, through huggingface_hub.

``hf://datasets/org/name`` and ``hf://spaces/org/name`` are the other kinds of repositories. A revision is a branch, a
tag or a commit; it is resolved to a commit once, so that all files are of the same one. storage_options: `token`,
`endpoint`, `cache_dir`; without them huggingface_hub's own settings count (HF_TOKEN and `hf auth login`, HF_ENDPOINT,
HF_HUB_CACHE). Its requests take certificates from SSL_CERT_FILE. Files that its cache has are read from there; with
HF_HUB_OFFLINE nothing else is.

Files are read from where the Hub redirects to, by a signed URL that is made anew before it ends.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from .._errors import AuthError, ConfigError, NotFoundError, ServerError, WeightstreamError
from .._version import __version__
from . import failures
from .description import Description
from .index import INDEX_SUFFIX
from .keys import check_location_key
from .names import SUFFIX
from .remote import Access, LocalSource, RemoteSource, Source, Transport, check_endpoint, guard_credentials
from .store import Entry, Store

OPTIONS = frozenset({"token", "endpoint", "cache_dir"})

_FORM = "this is not of the form hf://org/model, hf://org/model@revision or hf://org/model@revision/path"
_TYPES = {"models": "model", "datasets": "dataset", "spaces": "space"}
_TIMEOUT = 10  # seconds
_WORKERS = 8
# A revision with slashes that needs no percent-encoding.
_PULL_REQUEST = re.compile(r"refs/(?:pr/\d+|convert/[^/]+)(?=/|$)")


def split(location: str) -> tuple[str, str]:
    """The kind, the repository and the revision as TYPE/REPOSITORY@REVISION, and a path in it."""
    path = location.partition("://")[2]
    kind = "model"
    if path.partition("/")[0] in _TYPES:
        first, _, path = path.partition("/")
        kind = _TYPES[first]
    repo, at, rest = path.partition("@")
    if at and repo.count("/") <= 1:
        pull_request = _PULL_REQUEST.match(rest)
        revision = pull_request[0] if pull_request else rest.partition("/")[0]
        key = rest[len(revision) + 1 :]
        revision = unquote(revision)
        if not revision:
            raise ConfigError(f"{_FORM}: the revision is empty", source=location)
    else:
        revision = ""
        parts = path.split("/")
        # Some models of old have no organization before their name.
        length = 1 if len(parts) == 2 and parts[1].endswith((SUFFIX, INDEX_SUFFIX)) else 2
        repo, key = "/".join(parts[:length]), "/".join(parts[length:])
    repo = repo.rstrip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", repo):
        raise ConfigError(_FORM, source=location)
    check_location_key(key, location)
    return f"{kind}/{repo}@{revision}", key


def connect(root: str, options: Mapping[str, Any]) -> Store:
    """Opens a repository at the commit that its revision stands for now."""
    hub = failures.sdk("huggingface_hub", "hf", "hf")
    constants = failures.sdk("huggingface_hub.constants", "hf", "hf")
    kind, _, rest = root.partition("/")
    repo, _, revision = rest.partition("@")
    where = _where(root)
    endpoint = _endpoint(options, constants, where)
    transport = Transport.of(options)
    api = hub.HfApi(
        endpoint=endpoint, token=options.get("token"), library_name="weightstream", library_version=__version__
    )
    cache_dir = options.get("cache_dir")
    if constants.HF_HUB_OFFLINE:
        return _Snapshot(_cached_folder(hub, repo, kind, revision or None, cache_dir, where), where)
    if api.token or (api.token is None and hub.get_token()):
        guard_credentials(endpoint, transport, "the Hub's token")
    try:
        info = api.repo_info(repo, revision=revision or None, repo_type=kind, timeout=_TIMEOUT)
    except Exception as error:
        raise _translated(error, where, endpoint) from None
    return HubStore(api, hub, repo, kind, info.sha, cache_dir, where, transport)


def describe(root: str, key: str, options: Mapping[str, Any]) -> Description:
    """How a repository is reached."""
    hub = failures.sdk("huggingface_hub", "hf", "hf")
    constants = failures.sdk("huggingface_hub.constants", "hf", "hf")

    def credentials() -> str | None:
        if constants.HF_HUB_OFFLINE:
            return "none are needed: HF_HUB_OFFLINE is set, and only the Hub's cache is read"
        if options.get("token"):
            return "token in storage_options"
        if options.get("token") is False or not hub.get_token():
            return "none; public repositories can be read"
        variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
        return f"{variable} in the environment" if variable else "the token of `hf auth login`"

    endpoint = None if constants.HF_HUB_OFFLINE else _endpoint(options, constants, _where(root))
    return Description.of(_where(root), key, endpoint, Transport.of(options), credentials)


class HubStore(Store):
    """One repository at one commit."""

    def __init__(
        self, api: Any, hub: Any, repo: str, kind: str, commit: str, cache_dir: Any, where: str, transport: Transport
    ) -> None:
        self._api = api
        self._hub = hub
        self._repo = repo
        self._kind = kind
        self._commit = commit
        self._cache_dir = cache_dir
        self._where = where
        self._transport = transport

    def name(self, key: str) -> str:
        """As an hf:// URL."""
        return f"{self._where}/{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        """The tree of the repository."""
        errors = failures.sdk("huggingface_hub.errors", "hf", "hf")
        folder = prefix.rpartition("/")[0] or None
        try:
            tree = self._api.list_repo_tree(
                self._repo, folder, recursive=recursive, revision=self._commit, repo_type=self._kind
            )
            for found in tree:
                if isinstance(found, self._hub.hf_api.RepoFile) and found.path.startswith(prefix):
                    yield Entry(found.path, found.size, version=found.lfs.sha256 if found.lfs else found.blob_id)
        except errors.EntryNotFoundError:
            return
        except Exception as error:
            raise _translated(error, self.name(prefix), self._api.endpoint) from None

    def find(self, key: str) -> Entry:
        """Reading it finds out: `source` asks the Hub where it is."""
        return Entry(key, version=self._commit)

    def source(self, entry: Entry) -> Source:
        """From the cache, or from where the Hub says that it is."""
        cached = self._hub.try_to_load_from_cache(
            self._repo, entry.key, cache_dir=self._cache_dir, revision=self._commit, repo_type=self._kind
        )
        if isinstance(cached, str):
            return LocalSource(cached)
        access, size = self._locate(entry.key)
        # Where it is read from has an ETag of its own; the commit is what pins the file.
        return RemoteSource(
            self.name(entry.key), access, size, None, lambda: self._locate(entry.key)[0], self._transport
        )

    def sources(self, entries: Sequence[Entry]) -> list[Source]:
        """As `source`, several at once: each takes a round trip."""
        if len(entries) < 2:
            return [self.source(entry) for entry in entries]
        with ThreadPoolExecutor(min(_WORKERS, len(entries)), "weightstream-hub") as pool:
            return list(pool.map(self.source, entries))

    def _locate(self, key: str) -> tuple[Access, int | None]:
        try:
            url = self._hub.hf_hub_url(
                self._repo, key, revision=self._commit, repo_type=self._kind, endpoint=self._api.endpoint
            )
            found = self._api.get_hf_file_metadata(url=url, timeout=_TIMEOUT)
            headers = {}
            if _origin(found.location) == _origin(url):  # the Hub itself, which wants its token
                sent = self._hub.utils.build_hf_headers(token=self._api.token)
                headers = {name: value for name, value in sent.items() if name.lower() == "authorization"}
        except Exception as error:
            raise _translated(error, self.name(key), self._api.endpoint) from None
        redirected_by = None if found.location == url else self._api.endpoint
        return Access(found.location, headers, _expiry(found.location), redirected_by), found.size


class _Snapshot(Store):
    """What the cache has of one repository at one commit."""

    def __init__(self, folder: str, where: str) -> None:
        self._folder = folder
        self._where = where

    def name(self, key: str) -> str:
        return f"{self._where}/{key}"

    def entries(self, prefix: str, recursive: bool) -> Iterable[Entry]:
        for folder, _, names in os.walk(self._folder):
            for name in names:
                key = os.path.relpath(os.path.join(folder, name), self._folder)
                if key.startswith(prefix) and (recursive or "/" not in key[len(prefix) :]):
                    yield Entry(key, os.path.getsize(os.path.join(folder, name)))

    def find(self, key: str) -> Entry:
        if not os.path.isfile(os.path.join(self._folder, key)):
            raise NotFoundError(
                "the Hub's cache has no such file, and HF_HUB_OFFLINE is set; unset it once to fetch the file",
                source=self.name(key),
            )
        return Entry(key)

    def source(self, entry: Entry) -> Source:
        return LocalSource(os.path.join(self._folder, entry.key))


def _cached_folder(hub: Any, repo: str, kind: str, revision: str | None, cache_dir: Any, where: str) -> str:
    try:
        return str(
            hub.snapshot_download(repo, repo_type=kind, revision=revision, cache_dir=cache_dir, local_files_only=True)
        )
    except Exception as error:
        # A snapshot of some of the files; newer versions of huggingface_hub tell.
        folder = getattr(error, "snapshot_path", None)
        if isinstance(folder, str):
            return folder
        if isinstance(error, hub.errors.HFValidationError):
            raise _translated(error, where, "the Hub") from None
        raise NotFoundError(
            "the Hub's cache has nothing of it, and HF_HUB_OFFLINE is set; unset it once to fetch the files",
            source=where,
        ) from None


def _translated(error: Exception, source: str, endpoint: str) -> WeightstreamError:
    if isinstance(error, WeightstreamError):
        return error
    errors = failures.sdk("huggingface_hub.errors", "hf", "hf")
    if isinstance(error, errors.HFValidationError):
        return ConfigError(_FORM, source=source)
    if isinstance(error, errors.LocalTokenNotFoundError):
        return AuthError("there is no token of the Hub; run `hf auth login` or set HF_TOKEN", source=source)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return ConfigError("HF_HUB_OFFLINE is set, so the Hub is not asked", source=source)
    response = getattr(error, "response", None)
    if isinstance(error, errors.HfHubHTTPError) and response is not None:
        return _refused(error, int(response.status_code), source, endpoint, errors)
    sent_by = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or sent_by in ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"):
        return failures.unreachable(error, source=source, endpoint=endpoint, trust=_trust())
    return ServerError(f"cannot use {endpoint}: {type(error).__name__}", source=source)


def _trust() -> str:
    """How the Hub's package is told of a private CA: its client is one for the whole process, which we leave alone."""
    # Before 1.0 it asked through requests.
    new = hasattr(failures.sdk("huggingface_hub", "hf", "hf"), "set_client_factory")
    variable = "SSL_CERT_FILE" if new else "REQUESTS_CA_BUNDLE"
    return (
        f"set {variable} to its CA bundle before the program starts: huggingface_hub asks the Hub, and takes no "
        "'verify' of storage_options"
    )


def _refused(error: Any, status: int, source: str, endpoint: str, errors: Any) -> WeightstreamError:
    kind: type[WeightstreamError] | None = None
    what, hint = f"{endpoint} refused it", None
    if isinstance(error, errors.GatedRepoError):
        page = source.removeprefix("hf://").partition("@")[0]
        kind, what = AuthError, "this repository is gated"
        hint = f"accept its terms at {endpoint}/{'/'.join(page.split('/')[:2])} and log in with `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        kind, what, hint = NotFoundError, "there is no such revision of the repository", "check what stands after '@'"
    elif isinstance(error, errors.EntryNotFoundError):
        kind, what, hint = NotFoundError, "there is no such file in the repository", "check its path"
    elif "/" not in source.removeprefix("hf://") and (
        status == 404 or isinstance(error, errors.RepositoryNotFoundError)
    ):
        # Only some models of old have no organization before their name.
        kind, what, hint = NotFoundError, f"{endpoint} has no such model", f"{_FORM}: is the model's name missing?"
    elif isinstance(error, errors.RepositoryNotFoundError):
        kind, what = NotFoundError, f"{endpoint} has no such repository, or it is private"
        hint = "check its name, and log in with `hf auth login` or set HF_TOKEN"
    elif status in (401, 403):
        hint = "the token is not valid, or may not read it: log in with `hf auth login` or set HF_TOKEN"
    return failures.answered(
        status,
        what,
        source=source,
        code=_code(error),
        request_id=getattr(error, "request_id", None),
        kind=kind,
        hint=hint,
    )


def _code(error: Any) -> str | None:
    code = error.response.headers.get("X-Error-Code")
    return str(code) if code else None


def _where(root: str) -> str:
    """As an hf:// URL."""
    kind, _, rest = root.partition("/")
    return f"hf://{'' if kind == 'model' else kind + 's/'}{rest.rstrip('@')}"


def _endpoint(options: Mapping[str, Any], constants: Any, where: str) -> str:
    given = options.get("endpoint")
    return check_endpoint(given or constants.ENDPOINT, "storage_options['endpoint']" if given else "HF_ENDPOINT", where)


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _expiry(url: str) -> float | None:
    """When a signed URL ends, in the spellings of CloudFront, S3 and Cloud Storage."""
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        if "expires" in query:
            return float(query["expires"])
        for cloud in ("x-amz", "x-goog"):
            if f"{cloud}-date" in query and f"{cloud}-expires" in query:
                begun = datetime.strptime(query[f"{cloud}-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
                return begun.timestamp() + float(query[f"{cloud}-expires"])
    except ValueError:
        return None
    return None
