"""gs:// against an emulator, and against a scripted service where the emulator does not check what matters."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from fetching import SHARDS, get, model, read, remote

import weightstream as ws
from servers.gcs import GcsServer, account
from servers.messages import plain
from servers.programs import free_ports
from servers.scripted import ScriptedServer
from weightstream.sources import describe, list_files, resolve
from weightstream.sources import gcs as sources_gcs

pytestmark = pytest.mark.usefixtures("environment")

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def stored(gcs: GcsServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    files = model(folder)
    gcs.upload(folder, "llm")
    gcs.put("odd/ü +%?&=.safetensors", b"odd")
    return files


def test_a_prefix_by_its_index(gcs: GcsServer, stored: dict[str, bytes], environment: pytest.MonkeyPatch) -> None:
    environment.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint)
    found = resolve("gs://models/llm", {})
    assert [source.name for source in found.sources] == [f"gs://models/llm/{name}" for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    for source, name in zip(found.sources, SHARDS, strict=True):
        assert read(source) == stored[name]
        assert remote(source).size == len(stored[name])
        assert remote(source).renew is None


def test_a_glob_and_odd_names(gcs: GcsServer, stored: dict[str, bytes]) -> None:
    settings = {"endpoint_url": gcs.endpoint, "anonymous": True}
    found = resolve("gs://models/llm/model-*.safetensors", settings).sources
    assert [read(source) for source in found] == [stored[name] for name in SHARDS]
    for location in ("gs://models/odd/ü +%?&=.safetensors", "gs://models/odd"):
        (source,) = resolve(location, settings).sources
        assert read(source) == b"odd"


def test_all_files(gcs: GcsServer, stored: dict[str, bytes]) -> None:
    files = list_files("gs://models/llm", {"endpoint_url": gcs.endpoint, "anonymous": True})
    assert {file.key: read(file.source) for file in files} == stored
    assert {file.key: file.size for file in files} == {name: len(data) for name, data in stored.items()}


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("gs://models/none.safetensors", "no such object in bucket 'models'"),
        ("gs://models/none/", "nothing with this prefix"),
        ("gs://gone/llm/", "no bucket 'gone' at http"),
        ("gs://models/llm/x*", "no file matches"),
    ],
)
def test_nothing_there(gcs: GcsServer, stored: dict[str, bytes], location: str, message: str) -> None:
    with pytest.raises(ws.NotFoundError, match=message) as caught:
        resolve(location, {"endpoint_url": gcs.endpoint, "anonymous": True})
    assert caught.value.source == location.replace("x*", "x*")


class Service:
    """A bucket that wants a bearer token, which lasts for an hour."""

    def __init__(self) -> None:
        self.tokens = 0
        self.generation = "7"
        self.refusal: tuple[int, Any] | None = None

    def __call__(self, request: Any) -> Any:
        if request.path == "/token":
            self.tokens += 1
            return plain(200, json.dumps({"access_token": f"token{self.tokens}", "expires_in": 3600}), JSON)
        if self.refusal:
            return plain(self.refusal[0], json.dumps(self.refusal[1]), {**JSON, "x-guploader-uploadid": "upload1"})
        if request.headers["Authorization"] != f"Bearer token{self.tokens}":
            return plain(401, json.dumps({"error": {"errors": [{"reason": "authError"}]}}), JSON)
        query = request.query
        _, _, name = request.path.partition("/o/")
        if not name:
            page = int(query.get("pageToken", "0"))
            items = [{"name": f"m/{page}.safetensors", "size": "3", "generation": self.generation}]
            return plain(
                200, json.dumps({"items": items, **({"nextPageToken": str(page + 1)} if page < 2 else {})}), JSON
            )
        if query.get("alt") == "media":
            if query.get("ifGenerationMatch", self.generation) != self.generation:
                return plain(412)
            return plain(200, unquote(name).encode())
        return plain(200, json.dumps({"name": unquote(name), "size": "3", "generation": self.generation}), JSON)


@pytest.fixture
def service() -> Iterator[tuple[Service, ScriptedServer]]:
    made = Service()
    with ScriptedServer(made) as server:
        yield made, server


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_service_account(
    service: tuple[Service, ScriptedServer], tmp_path: Path, environment: pytest.MonkeyPatch, way: str
) -> None:
    made, server = service
    path = account(tmp_path, server.origin)
    settings = {"endpoint_url": server.origin, "user_project": "payer"}
    if way == "option":
        settings["credentials_file"] = path
    else:
        environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    found = [remote(source) for source in resolve("gs://b/m", settings).sources]
    assert [source.name for source in found] == [f"gs://b/m/{i}.safetensors" for i in range(3)]  # of three pages
    assert made.tokens == 1
    assert [get(source.access) for source in found] == [f"m/{i}.safetensors".encode() for i in range(3)]
    assert found[0].access.expires_at == pytest.approx(time.time() + 3600, abs=60)
    assert parse_qs(urlsplit(found[0].access.url).query)["userProject"] == ["payer"]
    assert all(request.query["userProject"] == "payer" for request in server.requests if request.path != "/token")
    assert found[0].renew is not None
    again = found[0].renew()
    assert again.headers["authorization"] == "Bearer token2"
    assert get(again) == b"m/0.safetensors"
    assert "token2" not in repr(again)


def test_an_object_that_is_replaced_is_not_read(service: tuple[Service, ScriptedServer], tmp_path: Path) -> None:
    from urllib.error import HTTPError

    made, server = service
    settings = {"endpoint_url": server.origin, "credentials_file": account(tmp_path, server.origin)}
    (source,) = resolve("gs://b/a.safetensors", settings).sources
    assert read(source) == b"a.safetensors"
    made.generation = "8"
    with pytest.raises(HTTPError) as caught:
        read(source)
    assert caught.value.code == 412
    caught.value.close()


def reason(name: str, message: str = "canarySecret") -> dict[str, Any]:
    return {"error": {"code": 0, "message": message, "errors": [{"reason": name}]}}


@pytest.mark.parametrize(
    ("status", "body", "error", "message"),
    [
        (403, reason("forbidden"), ws.AuthError, "this identity needs storage.objects.list"),
        (401, reason("authError"), ws.AuthError, "log in again"),
        (404, reason("notFound"), ws.NotFoundError, "there is no bucket 'b' at"),
        (
            400,
            reason("required", "Bucket is requester pays bucket but no user project"),
            ws.ProtocolError,
            "user_project",
        ),
        (429, reason("rateLimitExceeded"), ws.ThrottledError, "try again later.*code rateLimitExceeded.*3 attempts"),
        (503, reason("backendError"), ws.ThrottledError, "start fewer processes.*code backendError.*3 attempts"),
        (500, "no json object", ws.ServerError, "HTTP status 500"),
        (200, ["no object"], ws.ProtocolError, "is no Cloud Storage"),
        (302, {}, ws.ProtocolError, "it redirects.*proxy.*HTTP status 302"),
    ],
)
def test_what_the_service_answers(
    service: tuple[Service, ScriptedServer],
    tmp_path: Path,
    status: int,
    body: Any,
    error: type[ws.WeightstreamError],
    message: str,
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setattr(sources_gcs, "_BACKOFF", 0.01)  # how long it takes is for test_doctor.py to see
    made, server = service
    made.refusal = (status, body)
    since = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        resolve("gs://b/m/", {"endpoint_url": server.origin, "credentials_file": account(tmp_path, server.origin)})
    assert time.monotonic() - since < 30
    assert "canarySecret" not in str(caught.value)
    assert caught.value.request_id in (None, "upload1")


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_which_certificates_are_trusted(tmp_path: Path, authority: Any, environment: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pem"
    import certifi

    other.write_bytes(Path(certifi.where()).read_bytes())
    environment.setenv("REQUESTS_CA_BUNDLE", str(other))
    with ScriptedServer(Service(), tls=authority.context()) as server:
        settings = {"endpoint_url": server.origin, "credentials_file": account(tmp_path, server.origin)}
        with pytest.raises(ws.ServerError, match="certificate is not trusted; give its CA bundle"):
            resolve("gs://b/a.safetensors", settings)
        for verify in (str(authority.bundle), False):
            (source,) = resolve("gs://b/a.safetensors", {**settings, "verify": verify}).sources
            assert remote(source).transport.sdk_verify == verify
        environment.setenv("REQUESTS_CA_BUNDLE", str(authority.bundle))
        (source,) = resolve("gs://b/a.safetensors", settings).sources
        assert get(remote(source).access, str(authority.bundle)) == b"a.safetensors"


def test_no_credentials() -> None:
    since = time.monotonic()
    with pytest.raises(ws.AuthError, match=r"gcloud auth application-default login.*anonymous"):
        resolve("gs://b/m", {})
    assert time.monotonic() - since < 30


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"credentials_file": "/nowhere.json"},
            ws.ConfigError,
            r"names a file that is not there: /nowhere.json; check",
        ),
        ({"credentials_file": "/"}, ws.ConfigError, "names a file that cannot be read: /: Is a directory"),
        ({"credentials_file": __file__}, ws.ConfigError, rf"no credentials of Google: {re.escape(__file__)}; give the"),
        ({"credentials_file": 7}, ws.ConfigError, r"\['credentials_file'\] must be a path, not int"),
        ({"credentials": "token"}, ws.ConfigError, "must be of google.auth"),
        ({"credentials_file": "x", "anonymous": True}, ws.ConfigError, "credentials_file and anonymous; give one"),
        (
            {"endpoint_url": "127.0.0.1:4443", "anonymous": True},
            ws.ConfigError,
            r"\['endpoint_url'\] must begin with https:// or http://, not '127.0.0.1:4443'",
        ),
        ({"endpoint_url": "user:canary@127.0.0.1"}, ws.ConfigError, "https:// or http://; write it in front$"),
        ({"endpoint_url": "http://127.0.0.1:{free}", "anonymous": True}, ws.ServerError, "refused the connection"),
        ({"endpoint_url": "http://no-such-host.invalid", "anonymous": True}, ws.ServerError, "cannot be resolved"),
        ({"token": "x"}, ws.ConfigError, "unknown storage_options for gs://: token"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], error: type[ws.WeightstreamError], message: str) -> None:
    filled = {k: v.format(free=free_ports(1)[0]) if isinstance(v, str) else v for k, v in settings.items()}
    since = time.monotonic()
    with pytest.raises(error, match=message):
        resolve("gs://b/m", filled)
    assert time.monotonic() - since < 30


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/nowhere.json", "names a file that is not there: /nowhere.json; check the path"),
        ("/", "names a file that cannot be read: /: Is a directory"),
        (__file__, rf"names a file that has no credentials of Google: {re.escape(__file__)}; give the JSON file"),
    ],
)
def test_a_variable_that_names_no_credentials(environment: pytest.MonkeyPatch, path: str, message: str) -> None:
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", path)
    with pytest.raises(ws.ConfigError, match=f"^gs://b: GOOGLE_APPLICATION_CREDENTIALS {message}"):
        resolve("gs://b/m", {})


def test_an_emulator_is_asked_without_the_variable(
    gcs: GcsServer, stored: dict[str, bytes], environment: pytest.MonkeyPatch
) -> None:
    environment.setenv("STORAGE_EMULATOR_HOST", gcs.endpoint.removeprefix("http://"))
    environment.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    assert len(resolve("gs://models/llm", {}).sources) == len(SHARDS)
    described = describe("gs://models/llm", {})
    assert described is not None
    assert "GOOGLE_APPLICATION_CREDENTIALS does not count then" in str(described.credentials())


def test_a_key_that_is_neither_an_object_nor_a_folder(gcs: GcsServer, stored: dict[str, bytes]) -> None:
    settings = {"endpoint_url": gcs.endpoint, "anonymous": True}
    message = "no such object in .*; no file lies directly in a folder gs://models/none/ either"
    for find in (resolve, list_files):
        with pytest.raises(ws.NotFoundError, match=message):
            find("gs://models/none", settings)


def test_a_token_that_was_passed_and_is_refused(service: tuple[Service, ScriptedServer]) -> None:
    from google.oauth2.credentials import Credentials

    _, server = service
    settings = {"endpoint_url": server.origin, "credentials": Credentials("expired")}
    with pytest.raises(ws.AuthError, match=r"\['credentials'\] has expired.*has to pass a fresh one") as caught:
        resolve("gs://b/m", settings)
    assert "gcloud" not in str(caught.value)


def test_a_token_does_not_go_unencrypted(tmp_path: Path) -> None:
    with ScriptedServer(Service()) as server:
        settings = {"endpoint_url": "http://storage.example", "credentials_file": account(tmp_path, server.origin)}
        with pytest.raises(ws.ConfigError, match=r"bearer token.*allow_plain_http"):
            resolve("gs://b/m", settings)
    assert server.requests == []


def test_an_account_that_google_does_not_know(tmp_path: Path) -> None:
    with ScriptedServer(lambda request: plain(400, json.dumps({"error": "invalid_grant"}), JSON)) as server:
        settings = {"endpoint_url": server.origin, "credentials_file": account(tmp_path, server.origin)}
        with pytest.raises(ws.AuthError, match="refused to renew the credentials"):
            resolve("gs://b/m", settings)


def test_credentials_that_end_at_a_known_time(service: tuple[Service, ScriptedServer]) -> None:
    from google.oauth2.credentials import Credentials

    made, server = service
    made.tokens = 1
    ends = datetime.datetime(2100, 1, 1)
    credentials = Credentials("token1", expiry=ends)
    (source,) = resolve("gs://b/a.safetensors", {"endpoint_url": server.origin, "credentials": credentials}).sources
    assert remote(source).access.expires_at == ends.replace(tzinfo=datetime.timezone.utc).timestamp()
    renew = remote(source).renew
    assert renew is not None
    with pytest.raises(ws.AuthError, match="has to pass a fresh one"):  # there is no refresh token
        renew()
