"""A Hub: repositories behind the API of huggingface.co, and their large files on a CDN, at another origin.

It does what the Hub does, as far as huggingface_hub and a loader can see: commits and branches, listings in pages,
metadata of large files in the X-Linked headers, signed CDN addresses that expire, tokens, private and gated
repositories, and the X-Error-Code of each refusal. The CDN refuses a request that brings a token: those are the Hub's.
Both servers are scripted ones (see scripted.py), so that they can be told to fail.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote

from servers.messages import Headers, Object, Request, Response, plain
from servers.scripted import ScriptedServer

TOKEN = "hf_tokenOfTheTests"
PAGE = 5  # entries of a listing
_LARGE = (".safetensors", ".bin")
_SIGNATURE = "signatureOfTheTests"
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """Commits, oldest first, and who may read them: `private` needs the token, `gated` is refused to everybody."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)


class Refusal(Exception):
    """An answer that is an error of the Hub's."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self.response = plain(status, json.dumps({"error": message}), headers)


class Hub:
    """Two servers, for a `with` block.

    Attributes:
        api: the Hub; its origin is what HF_ENDPOINT has to be.
        cdn: where large files come from.
        signed_for: how many seconds the addresses on the CDN work.

    """

    def __init__(self, *, signed_for: float = 3600) -> None:
        self.signed_for = signed_for
        self._repositories: dict[str, Repository] = {}
        self._blobs: dict[str, Object] = {}
        self.api = ScriptedServer(self._answer)
        self.cdn = ScriptedServer(self._answer_cdn)

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.api.close()
        finally:
            self.cdn.close()

    @property
    def environment(self) -> dict[str, str]:
        """As huggingface_hub finds this Hub, without a token."""
        return {"HF_ENDPOINT": self.api.origin, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}

    def commit(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main", **access: bool) -> str:
        """Makes the next commit of a branch, of just these files, and returns its hash."""
        found = self._repositories.setdefault(repository, Repository(**access))
        before = found.branches.get(branch, "")
        listing = "".join(f"{name} {hashlib.sha1(data).hexdigest()}\n" for name, data in sorted(files.items()))
        commit = hashlib.sha1(f"{before}\n{listing}".encode()).hexdigest()
        found.commits[commit] = dict(files)
        found.branches[branch] = commit
        for data in files.values():
            digest = hashlib.sha256(data).hexdigest()
            self._blobs[digest] = Object(data, etag=f'"{digest}"')
        return commit

    def _answer(self, request: Request) -> Response:
        try:
            if match := _API.fullmatch(request.path):
                return self._answer_api(request, *match.groups())
            if match := _RESOLVE.fullmatch(request.path):
                return self._resolve(request, *match.groups())
        except Refusal as refusal:
            return refusal.response
        return plain(404, "Not Found")

    def _find(self, request: Request, name: str, revision: str | None) -> tuple[str, dict[str, bytes]]:
        """The commit and its files, for who may read them."""
        authorization = request.headers["Authorization"]
        if authorization not in (None, f"Bearer {TOKEN}"):
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        repository = self._repositories.get(name)
        if repository is None or (repository.private and authorization is None):
            # It does not tell strangers what there is.
            raise Refusal(404 if authorization else 401, "RepoNotFound", "Repository not found")
        if repository.gated:
            message = f"Access to model {name} is restricted and you are not in the authorized list."
            raise Refusal(403 if authorization else 401, "GatedRepo", message)
        revision = unquote(revision or "main")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit, repository.commits[commit]

    def _answer_api(
        self, request: Request, name: str, what: str | None, revision: str | None, path: str | None
    ) -> Response:
        commit, files = self._find(request, name, revision)
        if what == "tree":
            return self._tree(request, files, path or "")
        if what == "paths-info":
            wanted = parse_qs(request.body.decode())["paths"]
            return _json([_entry(path, files[path]) for path in wanted if path in files])
        siblings = [{"rfilename": path, "size": len(data)} for path, data in sorted(files.items())]
        model = {"_id": "1", "id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []}
        model |= {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        return _json(model)

    def _tree(self, request: Request, files: Mapping[str, bytes], folder: str) -> Response:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, data in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            below = path[len(prefix) :].split("/")
            if len(below) == 1 or request.query.get("recursive", "").lower() == "true":
                entries[path] = _entry(path, data)
            else:
                inner = prefix + below[0]
                entries[inner] = {"type": "directory", "path": inner, "size": 0, "oid": "0" * 40}
        if folder and not entries:
            raise Refusal(404, "EntryNotFound", f"{folder} does not exist")
        begin = int(request.query.get("cursor", "0"))
        response = _json(list(entries.values())[begin : begin + PAGE])
        if begin + PAGE < len(entries):
            query = "&".join(f"{k}={v}" for k, v in {**request.query, "cursor": str(begin + PAGE)}.items())
            path = quote(request.path)
            response.headers.set("Link", f'<{self.api.origin}{path}?{query}>; rel="next"')
        return response

    def _resolve(self, request: Request, name: str, revision: str, path: str) -> Response:
        commit, files = self._find(request, name, revision)
        if path not in files:
            raise Refusal(404, "EntryNotFound", f"{path} does not exist")
        data = files[path]
        digest = hashlib.sha256(data).hexdigest()
        if not path.endswith(_LARGE):
            response = Object(data, etag=f'"{_git_hash(data)}"').answer(request)
            response.headers.set("X-Repo-Commit", commit)
            return response
        until = int(time.time() + self.signed_for)
        location = f"{self.cdn.origin}/repos/{digest}?Expires={until}&Signature={_SIGNATURE}&Key-Pair-Id=TESTS"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data)), "X-Repo-Commit": commit}
        return plain(302, "", {"Location": location, "ETag": f'"{digest}"', **linked})

    def _answer_cdn(self, request: Request) -> Response:
        if "Authorization" in request.headers:
            return plain(400, "<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism</Message></Error>")
        query = request.query
        if query.get("Signature") != _SIGNATURE or float(query.get("Expires", 0)) < time.time():
            return plain(403, "<Error><Code>AccessDenied</Code><Message>Access denied</Message></Error>")
        found = self._blobs.get(request.path.rpartition("/")[2])
        return found.answer(request) if found else plain(404)


def _git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _entry(path: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": _git_hash(data)}
    if path.endswith(_LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
    return entry


def _json(value: Any) -> Response:
    text = json.dumps(value).encode()
    return Response(200, Headers({"Content-Type": "application/json", "Content-Length": str(len(text))}), text)
