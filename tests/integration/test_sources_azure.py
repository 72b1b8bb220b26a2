"""az:// against Azurite, which checks keys and signatures, and against a scripted service that wants a bearer token."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest
from fetching import SHARDS, get, model, read, remote

import weightstream as ws
from servers.azurite import ACCOUNT, KEY, AzureServer
from servers.messages import plain
from servers.programs import free_ports
from servers.scripted import ScriptedServer
from weightstream.sources import Access, list_files, resolve
from weightstream.sources import azure as sources_azure

pytestmark = pytest.mark.usefixtures("environment")


@pytest.fixture(scope="module")
def stored(azure: AzureServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    files = model(folder)
    azure.upload(folder, "llm")
    with azure.container() as client:
        client.upload_blob("odd/ü +%?&=.safetensors", b"odd", overwrite=True)
    return files


def by_key(azure: AzureServer, **more: Any) -> dict[str, Any]:
    return {"account_url": azure.account_url, "account_key": KEY, **more}


def test_a_prefix_by_its_index(azure: AzureServer, stored: dict[str, bytes]) -> None:
    found = resolve("az://models/llm", by_key(azure))
    assert [source.name for source in found.sources] == [f"az://models/llm/{name}" for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    for source, name in zip(found.sources, SHARDS, strict=True):
        assert read(source) == stored[name]
        assert remote(source).size == len(stored[name])
        # What a listing says is what the reader compares with.
        url = remote(source).access.url
        import urllib.request

        with urllib.request.urlopen(url) as response:
            assert response.headers["ETag"] == remote(source).etag


def test_a_glob_and_odd_names(azure: AzureServer, stored: dict[str, bytes]) -> None:
    found = resolve("az://models/llm/model-*.safetensors", by_key(azure)).sources
    assert [read(source) for source in found] == [stored[name] for name in SHARDS]
    for location in ("az://models/odd/ü +%?&=.safetensors", "az://models/odd"):
        (source,) = resolve(location, by_key(azure)).sources
        assert read(source) == b"odd"


def test_all_files(azure: AzureServer, stored: dict[str, bytes]) -> None:
    files = list_files("az://models/llm", by_key(azure))
    assert {file.key: read(file.source) for file in files} == stored
    assert {file.key: file.size for file in files} == {name: len(data) for name, data in stored.items()}


def container_sas(seconds: int = 3600, **permissions: bool) -> str:
    import datetime

    from azure.storage.blob import ContainerSasPermissions, generate_container_sas

    ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)
    begins = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=2)
    allowed = ContainerSasPermissions(**(permissions or {"read": True, "list": True}))
    return str(
        generate_container_sas(ACCOUNT, "models", account_key=KEY, permission=allowed, expiry=ends, start=begins)
    )


@pytest.mark.parametrize("way", ["connection string", "its variable", "key variable", "SAS", "?SAS", "SAS variable"])
def test_each_kind_of_credentials(
    azure: AzureServer, stored: dict[str, bytes], environment: pytest.MonkeyPatch, way: str
) -> None:
    settings: dict[str, Any] = {"account_url": azure.account_url}
    if way == "connection string":
        settings = {"connection_string": azure.connection_string}
    elif way == "its variable":
        settings = {}
        environment.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    elif way == "key variable":
        environment.setenv("AZURE_STORAGE_ACCOUNT_KEY", KEY)
    elif way == "SAS variable":
        environment.setenv("AZURE_STORAGE_SAS_TOKEN", container_sas())
    else:
        settings["sas_token"] = ("?" if way == "?SAS" else "") + container_sas()
    (first, *_) = resolve("az://models/llm/model-*", settings).sources
    source = remote(first)
    assert read(source) == stored[SHARDS[0]]
    assert source.access.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assert "sig=" not in repr(source) + str(source)
    assert (source.renew is None) == ("SAS" in way)  # nobody but the account can make another
    if "SAS" not in way:
        # It reads this blob, and nothing else.
        other = source.access.url.replace(SHARDS[0], SHARDS[1])
        with pytest.raises(HTTPError) as caught:
            get(Access(other))
        assert caught.value.code == 403
        caught.value.close()
        assert KEY not in source.access.url
        assert source.renew is not None
        assert get(source.renew()) == stored[SHARDS[0]]


@pytest.fixture
def soon_again(environment: pytest.MonkeyPatch) -> None:
    """The SDK asks twice, as ever, without a second in between. How long it takes is for test_doctor.py to see."""
    waits = {"initial_backoff": 0.01, "increment_base": 0, "random_jitter_range": 0}
    environment.setattr(sources_azure, "_RETRY", {**sources_azure._RETRY, **waits})


class Token:
    """As a credential of azure-identity."""

    def __init__(self) -> None:
        self.made = 0

    def get_token(self, *scopes: str, **settings: Any) -> Any:
        from azure.core.credentials import AccessToken

        assert scopes == ("https://storage.azure.com/.default",)
        self.made += 1
        return AccessToken(f"token{self.made}", int(time.time()) + 1000 * self.made)

    def close(self) -> None:
        """Nothing is open."""


def test_a_bearer_token(authority: Any) -> None:
    def answer(request: Any) -> Any:
        if not (request.headers["Authorization"] or "").startswith("Bearer token"):
            return plain(401)
        assert request.headers["x-ms-version"] >= "2017-11-09"  # what a token needs
        return plain(200, b"" if request.method == "HEAD" else b"abc", {"ETag": '"0x1"', "x-ms-blob-type": "BlockBlob"})

    with ScriptedServer(answer, tls=authority.context()) as server:
        settings = {
            "account_url": f"{server.origin}/account",
            "credential": Token(),
            "verify": str(authority.bundle),
        }
        source = remote(resolve("az://models/a.safetensors", settings).sources[0])
        assert source.etag == '"0x1"'
        assert source.access.expires_at is not None
        assert get(source.access, str(authority.bundle)) == b"abc"
        assert source.renew is not None
        again = source.renew()
        assert again.headers["Authorization"] != source.access.headers["Authorization"]
        assert (again.expires_at or 0) > source.access.expires_at
        assert get(again, str(authority.bundle)) == b"abc"


def test_a_token_does_not_go_unencrypted() -> None:
    settings = {"account_url": "http://storage.example/account", "credential": Token()}
    with pytest.raises(ws.ConfigError, match=r"unencrypted.*allow_plain_http"):
        resolve("az://models/a.safetensors", settings)


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("az://models@weights.blob.core.windows.net/a.safetensors", "https://weights.blob.core.windows.net/"),
        ("az://models@weights/a.safetensors", "https://weights.blob.core.windows.net/"),
        ("abfss://models@weights.dfs.core.windows.net/a.safetensors", "https://weights.blob.core.windows.net/"),
        (
            "abfs://models@weights.dfs.core.chinacloudapi.cn/a.safetensors",
            "https://weights.blob.core.chinacloudapi.cn/",
        ),
        ("az://models/a.safetensors", "https://other.blob.core.windows.net/"),
    ],
)
def test_where_the_account_is_named(environment: pytest.MonkeyPatch, location: str, url: str) -> None:
    from weightstream.sources import azure as backend

    environment.setenv("AZURE_STORAGE_ACCOUNT_NAME", "other")
    environment.setenv("AZURE_STORAGE_CONNECTION_STRING", "" if "@" not in location else "AccountName=wrong")
    root, key = backend.split(location)
    assert key == "a.safetensors"
    with backend.connect(root, {"account_key": KEY}) as store:
        from weightstream.sources.store import Entry

        assert remote(store.source(Entry(key))).access.url.startswith(f"{url}models/a.safetensors?")


SECRETS = (KEY, "sig=", "d3Jvbmc")


@pytest.mark.parametrize(
    ("location", "changes", "error", "message"),
    [
        ("az://models/none.safetensors", {}, ws.NotFoundError, "no such blob in container 'models' at http"),
        ("az://models/none/", {}, ws.NotFoundError, "nothing with this prefix"),
        ("az://gone/llm/", {}, ws.NotFoundError, "no container 'gone' at http"),
        ("az://models/llm/x*", {}, ws.NotFoundError, "no file matches"),
        ("az://models/llm/", {"account_key": "d3Jvbmc="}, ws.AuthError, "the account key or SAS is wrong"),
        ("az://models/llm/", {"account_key": "not base64"}, ws.ConfigError, "account key is malformed"),
        (
            "az://models/llm/",
            {"account_key": None, "anonymous": True},
            ws.AuthError,
            "is not public.*leave out anonymous",
        ),
        ("az://models/llm/", {"account_key": None, "sas_token": "expired"}, ws.AuthError, "has expired"),
        ("az://models/llm/", {"account_key": None, "sas_token": "read only"}, ws.AuthError, "may read and list"),
        ("az://models/llm/", {"anonymous": True}, ws.ConfigError, "account_key and anonymous; give one"),
        ("az://models/llm/", {"account_key": None, "credential": "k"}, ws.ConfigError, "object of azure-identity"),
        ("az://models/llm/", {"account_key": None, "connection_string": "sig=x"}, ws.ConfigError, "is malformed"),
        (
            "az://models/llm/",
            {"account_url": "x.blob.test"},
            ws.ConfigError,
            r"\['account_url'\] must begin with https",
        ),
        ("az://models/llm/", {"key": KEY}, ws.ConfigError, "unknown storage_options for az://: key"),
        ("az://Models/llm/", {}, ws.ConfigError, "az://container/blob"),
        ("az://models@a b/llm/", {}, ws.ConfigError, "az://container/blob"),
        ("az://models/a/../b", {}, ws.ConfigError, "write it out"),
    ],
)
def test_what_is_wrong_is_said(
    azure: AzureServer,
    stored: dict[str, bytes],
    location: str,
    changes: dict[str, Any],
    error: type[ws.WeightstreamError],
    message: str,
) -> None:
    changes = dict(changes)
    if changes.get("sas_token") == "expired":
        changes["sas_token"] = container_sas(-3600)
    elif changes.get("sas_token") == "read only":
        changes["sas_token"] = container_sas(read=True)
    since = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        resolve(location, {**by_key(azure), **changes})
    assert time.monotonic() - since < 30
    assert not [secret for secret in SECRETS if secret in str(caught.value) + repr(caught.value)]
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    if error is ws.AuthError:
        assert caught.value.status == 403
        assert caught.value.service_code
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (403, "AuthenticationFailed", ws.AuthError, "wrong or has expired"),
        (403, "AuthorizationPermissionMismatch", ws.AuthError, "needs the role Storage Blob Data Reader"),
        (409, "PublicAccessNotPermitted", ws.AuthError, "this container is not public"),
        (503, "ServerBusy", ws.ThrottledError, "service code ServerBusy"),
        (500, "InternalError", ws.ServerError, "service code InternalError"),
    ],
)
@pytest.mark.usefixtures("soon_again")
def test_what_the_service_answers(status: int, code: str, error: type[ws.WeightstreamError], message: str) -> None:
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>canarySecret</Message></Error>"
    headers = {"x-ms-error-code": code, "x-ms-request-id": "R1", "Content-Type": "application/xml"}
    with ScriptedServer(lambda request: plain(status, body, headers)) as server:
        since = time.monotonic()
        with pytest.raises(error, match=message) as caught:
            resolve("az://models/llm/", {"account_url": f"{server.origin}/weights", "account_key": KEY})
        assert time.monotonic() - since < 30
    assert "canarySecret" not in str(caught.value)
    assert (caught.value.status, caught.value.service_code, caught.value.request_id) == (status, code, "R1")


@pytest.mark.parametrize("location", ["az://models/llm/", "az://models/a.safetensors"])
def test_no_redirect_is_followed(location: str) -> None:
    """Whoever redirects is not the service, and may lead to a place that only this machine can ask."""
    with ScriptedServer(lambda request: plain(200, "<x/>")) as other:
        answer = plain(302, "", {"Location": other.url("/weights/models")})
        with (
            ScriptedServer(lambda request: answer) as server,
            pytest.raises(ws.ProtocolError, match=r"it redirects.*account_url.*proxy .*302"),
        ):
            resolve(location, {"account_url": f"{server.origin}/weights", "account_key": KEY})
        assert other.requests == []


@pytest.mark.parametrize(
    ("status", "code", "error", "message"),
    [
        (409, "PublicAccessNotPermitted", ws.AuthError, "is not public.*leave out anonymous"),
        (401, "NoAuthenticationInformation", ws.AuthError, "is not public.*leave out anonymous"),
        (404, "ResourceNotFound", ws.NotFoundError, "or it is not public; .*leave out anonymous"),
    ],
)
def test_a_private_container_that_is_taken_for_public(
    status: int, code: str, error: type[ws.WeightstreamError], message: str
) -> None:
    headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>no</Message></Error>"
    with (
        ScriptedServer(lambda request: plain(status, body, headers)) as server,
        pytest.raises(error, match=message) as caught,
    ):
        resolve("az://models/llm/", {"account_url": f"{server.origin}/weights", "anonymous": True})
    assert "account key" not in str(caught.value)


class NoToken:
    """A credential of azure-identity that fails with this text."""

    def __init__(self, said: str) -> None:
        self.said = said

    def get_token(self, *scopes: str, **settings: Any) -> Any:
        from azure.core.exceptions import ClientAuthenticationError

        raise ClientAuthenticationError(message=self.said)


CHAIN = "DefaultAzureCredential failed to retrieve a token\n\tEnvironmentCredential: Authentication failed: canary "


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "Failed to resolve 'login.microsoftonline.com' ([Errno -2] Name or service not known)",
            ws.ServerError,
            r"Azure's login service \(login.microsoftonline.com\): its name cannot be resolved; .*network$",
        ),
        ("[SSL: CERTIFICATE_VERIFY_FAILED]", ws.ServerError, "not trusted; set REQUESTS_CA_BUNDLE to its CA bundle"),
        ("ManagedIdentityCredential: timed out", ws.AuthError, "no usable Azure credentials"),
    ],
)
def test_why_there_is_no_token(said: str, error: type[ws.WeightstreamError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        resolve("az://models/llm", {"account_name": "weights", "credential": NoToken(CHAIN + said)})
    assert "canary" not in str(caught.value)


def test_a_connection_string_that_does_not_count(azure: AzureServer, environment: pytest.MonkeyPatch) -> None:
    from weightstream.sources import azure as backend

    environment.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    environment.setattr(backend, "_default_credential", lambda: NoToken(CHAIN))
    message = "no usable Azure credentials.*AZURE_STORAGE_CONNECTION_STRING is set but not used, as it names an account"
    with pytest.raises(ws.AuthError, match=message) as caught:
        resolve("az://models@weights/llm", {})
    assert KEY not in str(caught.value)


def test_no_account() -> None:
    with pytest.raises(ws.ConfigError, match=r"which storage account\? Give.*az://models@ACCOUNT\.blob"):
        resolve("az://models/llm", {})
    with pytest.raises(ws.ConfigError, match="'No_Such' is not the name of a storage account"):
        resolve("az://models/llm", {"account_name": "No_Such"})


def test_no_credentials(azure: AzureServer, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("PATH", "")
    since = time.monotonic()
    with pytest.raises(ws.AuthError, match=r"no usable Azure credentials; run `az login`"):
        resolve("az://models/llm", {"account_url": "https://127.0.0.1:1/weights"})
    assert time.monotonic() - since < 30


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://127.0.0.1:{free}/weights", "refused the connection"),
        ("https://no-such-host.invalid", "cannot be resolved"),
        ("https://{host}", "TLS handshake failed"),
    ],
)
@pytest.mark.usefixtures("soon_again")
def test_an_endpoint_that_cannot_be_reached(azure: AzureServer, url: str, message: str) -> None:
    filled = url.format(free=free_ports(1)[0], host=azure.account_url.partition("://")[2])
    since = time.monotonic()
    with pytest.raises(ws.ServerError, match=message):
        resolve("az://models/llm", {"account_url": filled, "account_key": KEY})
    assert time.monotonic() - since < 30


@pytest.mark.usefixtures("soon_again")
def test_a_certificate_that_nobody_trusts(authority: Any) -> None:
    with ScriptedServer(lambda request: plain(200), tls=authority.context()) as server:
        settings = {"account_url": f"{server.origin}/weights", "account_key": KEY}
        with pytest.raises(ws.ServerError, match="certificate is not trusted; give its CA bundle"):
            resolve("az://models/llm", settings)


def test_signed_urls_are_for_reading_only(azure: AzureServer, stored: dict[str, bytes]) -> None:
    source = remote(resolve(f"az://models/llm/{SHARDS[0]}", by_key(azure)).sources[0])
    query = parse_qs(urlsplit(source.access.url).query)
    assert (query["sp"], query["sr"]) == (["r"], ["b"])
    assert json.dumps(query)
