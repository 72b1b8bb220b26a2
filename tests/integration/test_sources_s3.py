"""s3:// against a server that checks signatures and permissions: listing, signing, renewing, and each wrong setting."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest
from fetching import clean_environment, get, model, read, remote

import weightstream as ws
from servers.messages import plain
from servers.programs import free_ports
from servers.s3 import OWNER, READER, REGION, STRANGER, S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import list_files, resolve

PATHS = {"s3": {"addressing_style": "path"}}
SHARDS = [f"model-{i}-of-3.safetensors" for i in (1, 2, 3)]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    with clean_environment(tmp_path) as patch:
        yield patch


@pytest.fixture(scope="module")
def stored(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("model")
    files = model(folder)
    s3.upload(folder, "models", "llm")
    s3.put("models", "llm/", b"")
    s3.put("models", "odd/ü +%?&=.safetensors", b"odd")
    return files


def options(s3: S3Server, keys: Any = READER, **more: Any) -> dict[str, Any]:
    return {
        "endpoint_url": s3.endpoint,
        "region_name": REGION,
        "aws_access_key_id": keys.access_key,
        "aws_secret_access_key": keys.secret_key,
        "config": PATHS,
        **more,
    }


def test_a_prefix_by_its_index(s3: S3Server, stored: dict[str, bytes]) -> None:
    found = resolve("s3://models/llm", options(s3))
    assert [source.name for source in found.sources] == [f"s3://models/llm/{name}" for name in SHARDS]
    assert found.weight_map == {"t1": 0, "t2": 1, "t3": 2}
    for source, name in zip(found.sources, SHARDS, strict=True):
        assert read(source) == stored[name]
        assert remote(source).size == len(stored[name])
        assert (remote(source).etag or "").startswith('"')


@pytest.mark.parametrize("location", ["s3://models/llm/model-*.safetensors", "s3://models/ll?/**/model-[1-3]*"])
def test_a_glob(s3: S3Server, stored: dict[str, bytes], location: str) -> None:
    assert [read(source) for source in resolve(location, options(s3)).sources] == [stored[name] for name in SHARDS]


def test_a_key_of_odd_characters(s3: S3Server, stored: dict[str, bytes]) -> None:
    for location in ("s3://models/odd/ü +%?&=.safetensors", "s3://models/odd"):
        (source,) = resolve(location, options(s3)).sources
        assert read(source) == b"odd"


def test_all_files(s3: S3Server, stored: dict[str, bytes]) -> None:
    files = list_files("s3://models/llm", options(s3))
    assert {file.key: read(file.source) for file in files} == stored
    assert {file.key: file.size for file in files} == {name: len(data) for name, data in stored.items()}
    (file,) = list_files("s3://models/llm/config.json", options(s3))
    assert (file.key, read(file.source)) == ("config.json", b"{}")


def test_a_listing_of_many_pages() -> None:
    def answer(request: Any) -> Any:
        page = int(request.query.get("continuation-token", "0"))
        keys = "".join(f"<Contents><Key>m/{page}-{i}.safetensors</Key><Size>7</Size></Contents>" for i in range(3))
        more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{page + 1}</NextContinuationToken>"
        body = f"<ListBucketResult><Name>b</Name>{keys}{more if page < 4 else ''}</ListBucketResult>"
        return plain(200, body, {"Content-Type": "application/xml"})

    with ScriptedServer(answer) as server:
        settings = {"endpoint_url": server.origin, "aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
        found = resolve("s3://b/m", {**settings, "region_name": REGION, "config": PATHS})
    assert len(server.requests) == 5
    assert [source.name for source in found.sources] == [
        f"s3://b/m/{page}-{i}.safetensors" for page in range(5) for i in range(3)
    ]


def test_credentials_and_endpoint_of_the_environment(
    s3: S3Server, stored: dict[str, bytes], environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in READER.environment.items():
        environment.setenv(variable, value)
    environment.setenv("AWS_ENDPOINT_URL_S3", s3.endpoint)
    environment.setenv("AWS_DEFAULT_REGION", REGION)
    (source,) = resolve("s3://models/llm/model-1-of-3.safetensors", {}).sources
    assert read(source) == stored["model-1-of-3.safetensors"]


def test_a_profile(s3: S3Server, stored: dict[str, bytes], environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        f"[other]\naws_access_key_id={READER.access_key}\naws_secret_access_key={READER.secret_key}\n"
    )
    (tmp_path / ".aws" / "config").write_text(
        f"[profile other]\nregion={REGION}\nendpoint_url={s3.endpoint}\ns3 =\n  addressing_style = path\n"
    )
    (source,) = resolve("s3://models/llm/model-1-of-3.safetensors", {"profile_name": "other"}).sources
    assert read(source) == stored["model-1-of-3.safetensors"]
    with pytest.raises(ws.ConfigError, match="nobody"):
        resolve("s3://models/llm", {"profile_name": "nobody"})


def test_a_url_is_signed_for_an_hour_and_anew(s3: S3Server, stored: dict[str, bytes]) -> None:
    source = remote(resolve("s3://models/llm/model-1-of-3.safetensors", options(s3)).sources[0])
    query = parse_qs(urlsplit(source.access.url).query)
    assert query["X-Amz-Expires"] == ["3600"]
    assert source.access.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assert READER.secret_key not in source.access.url
    assert source.renew is not None
    time.sleep(1.1)  # the date of a signature has seconds
    again = source.renew()
    assert again.url != source.access.url
    assert get(again) == stored["model-1-of-3.safetensors"]


def test_a_url_ends_with_its_credentials(
    s3: S3Server, stored: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datetime

    from botocore.credentials import RefreshableCredentials
    from botocore.session import Session

    made = 0

    def refresh() -> dict[str, str]:
        nonlocal made
        made += 1
        ends = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=1500 if made == 1 else 2500)
        keys = READER if made > 1 else OWNER
        return {
            "access_key": keys.access_key,
            "secret_key": keys.secret_key,
            "token": "",
            "expiry_time": ends.isoformat(),
        }

    credentials = RefreshableCredentials.create_from_metadata(refresh(), refresh, "test")
    monkeypatch.setattr(Session, "get_credentials", lambda self: credentials)
    settings = {name: value for name, value in options(s3).items() if not name.startswith("aws_")}
    source = remote(resolve("s3://models/llm/model-1-of-3.safetensors", settings).sources[0])
    assert source.access.expires_at == pytest.approx(time.time() + 1500, abs=10)
    assert get(source.access) == stored["model-1-of-3.safetensors"]
    # When little is left, they are made anew before they sign.
    monkeypatch.setattr(credentials, "_expiry_time", credentials._expiry_time - datetime.timedelta(seconds=1400))
    assert source.renew is not None
    again = source.renew()
    assert made == 2
    assert READER.access_key in again.url
    assert again.expires_at == pytest.approx(time.time() + 2500, abs=10)
    assert get(again) == stored["model-1-of-3.safetensors"]


def test_anonymous(s3: S3Server, stored: dict[str, bytes]) -> None:
    settings = {"endpoint_url": s3.endpoint, "region_name": REGION, "config": PATHS, "anonymous": True}
    with pytest.raises(ws.AuthError, match=r"cannot read the object.*needs s3:GetObject") as caught:
        resolve("s3://models/llm/model-1-of-3.safetensors", settings)
    assert caught.value.status == 403


def test_requester_pays_goes_with_each_request(stored: dict[str, bytes]) -> None:
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return plain(200, "abc", {"ETag": '"e"'})

    with ScriptedServer(answer) as server:
        settings = {
            "endpoint_url": server.origin,
            "region_name": REGION,
            "aws_access_key_id": "AK",
            "aws_secret_access_key": "SK",
            "config": PATHS,
            "requester_pays": True,
        }
        source = remote(resolve("s3://models/a.safetensors", settings).sources[0])
        assert seen[0].headers["x-amz-request-payer"] == "requester"
        assert dict(source.access.headers) == {"x-amz-request-payer": "requester"}
        assert "x-amz-request-payer" in parse_qs(urlsplit(source.access.url).query)["X-Amz-SignedHeaders"][0]


SECRETS = (OWNER.secret_key, READER.secret_key, STRANGER.secret_key, "Signature=", "wrong-secret")


@pytest.mark.parametrize(
    ("location", "changes", "error", "message"),
    [
        ("s3://models/llm/none.safetensors", {}, ws.NotFoundError, "no such object in bucket 'models'.*check the key"),
        ("s3://models/none/", {}, ws.NotFoundError, "nothing with this prefix"),
        ("s3://models/none", {}, ws.NotFoundError, "no such object"),
        ("s3://models/llm/x*", {}, ws.NotFoundError, "no file matches"),
        ("s3://gone/llm/", {"keys": OWNER}, ws.NotFoundError, "no bucket 'gone' at http://127"),
        ("s3://gone/a.safetensors", {"keys": OWNER}, ws.NotFoundError, "no bucket 'gone' at http://127"),
        ("s3://private/a/", {}, ws.AuthError, "needs s3:ListBucket"),
        ("s3://private/a.safetensors", {}, ws.AuthError, "needs s3:GetObject"),
        ("s3://models/llm/", {"keys": STRANGER}, ws.AuthError, "does not know the access key"),
        ("s3://models/llm/", {"aws_secret_access_key": "wrong-secret"}, ws.AuthError, "secret access key is not"),
        ("s3://models/llm/", {"config": {"no_such": 1}}, ws.ConfigError, "no_such"),
        ("s3://models/llm/", {"config": 7}, ws.ConfigError, r"storage_options\['config'\] must be a mapping"),
        ("s3://models/llm/", {"endpoint_url": "nonsense"}, ws.ConfigError, "Invalid endpoint"),
        ("s3://models/llm/", {"region": "x"}, ws.ConfigError, "unknown storage_options for s3://: region; there are"),
        ("s3://models/llm/", {"http": {"dead_line": 1}}, ws.ConfigError, "dead_line"),
        ("s3://models/../a.safetensors", {}, ws.ConfigError, "write it out"),
        ("s3:///a.safetensors", {}, ws.ConfigError, "s3://bucket/key"),
        ("s3://key:secret@models/a.safetensors", {}, ws.ConfigError, "s3://bucket/key"),
    ],
)
def test_what_is_wrong_is_said(
    s3: S3Server,
    stored: dict[str, bytes],
    location: str,
    changes: dict[str, Any],
    error: type[ws.WeightstreamError],
    message: str,
) -> None:
    s3.make_bucket("private")
    changes = dict(changes)
    settings = {**options(s3, changes.pop("keys", READER)), **changes}
    since = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        resolve(location, settings)
    assert time.monotonic() - since < 30
    assert not [secret for secret in SECRETS if secret in str(caught.value) + repr(caught.value)]
    # An SDK's own exception, which may repeat what was sent, is not shown with it.
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    if error is ws.AuthError:
        assert caught.value.status == 403
        assert caught.value.request_id


def test_no_credentials(s3: S3Server) -> None:
    since = time.monotonic()
    with pytest.raises(ws.AuthError, match=r"no AWS credentials; set AWS_PROFILE.*aws sso login.*anonymous"):
        resolve("s3://models/llm", {"endpoint_url": s3.endpoint, "region_name": REGION})
    assert time.monotonic() - since < 10


@pytest.mark.parametrize(
    ("endpoint", "error", "message"),
    [
        ("http://127.0.0.1:{free}", ws.ServerError, "refused the connection; check the endpoint's host and port"),
        ("http://no-such-host.invalid", ws.ServerError, "its name cannot be resolved"),
        ("https://{host}", ws.ServerError, "TLS handshake failed; is this an https endpoint"),
    ],
)
def test_an_endpoint_that_cannot_be_reached(
    s3: S3Server, endpoint: str, error: type[ws.WeightstreamError], message: str
) -> None:
    url = endpoint.format(free=free_ports(1)[0], host=s3.endpoint.partition("://")[2])
    since = time.monotonic()
    with pytest.raises(error, match=message) as caught:
        resolve("s3://models/llm", options(s3, endpoint_url=url))
    assert url in str(caught.value)
    assert time.monotonic() - since < 30


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_a_certificate_that_nobody_trusts(authority: Any) -> None:
    def answer(request: Any) -> Any:
        return plain(200, "abc", {"ETag": '"e"'})

    with ScriptedServer(answer, tls=authority.context()) as server:
        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": REGION, "config": PATHS}
        settings = {**keys, "endpoint_url": server.origin}
        with pytest.raises(ws.ServerError, match="certificate is not trusted; give its CA bundle"):
            resolve("s3://models/a.safetensors", settings)
        for verify in (str(authority.bundle), False):
            (source,) = resolve("s3://models/a.safetensors", {**settings, "verify": verify}).sources
            assert remote(source).transport.sdk_verify == verify


REDIRECT = """<?xml version="1.0"?><Error><Code>PermanentRedirect</Code><Message>elsewhere</Message>
<Bucket>models</Bucket><RequestId>R1</RequestId></Error>"""
SLOW_DOWN = "<Error><Code>SlowDown</Code><Message>slow</Message><RequestId>R2</RequestId></Error>"
EXPIRED = "<Error><Code>ExpiredToken</Code><Message>token canarySecret</Message><RequestId>R3</RequestId></Error>"
BROKEN = "<Error><Code>InternalError</Code><Message>oops</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "headers", "error", "message"),
    [
        (
            301,
            REDIRECT,
            {"x-amz-bucket-region": "eu-north-1"},
            ws.ConfigError,
            "wrong region: .*'eu-north-1'.*AWS_DEFAULT_REGION",
        ),
        (503, SLOW_DOWN, {}, ws.ThrottledError, "service code SlowDown"),
        (400, EXPIRED, {}, ws.AuthError, "credentials have expired: log in again"),
        (500, BROKEN, {}, ws.ServerError, "service code InternalError"),
        (200, "<html/>", {}, ws.ProtocolError, "something else than S3"),
    ],
)
def test_what_the_service_answers(
    status: int, body: str, headers: dict[str, str], error: type[ws.WeightstreamError], message: str
) -> None:
    def answer(request: Any) -> Any:
        return plain(status, body, {"Content-Type": "application/xml", **headers})

    with ScriptedServer(answer) as server:
        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "canarySecret", "region_name": REGION}
        since = time.monotonic()
        with pytest.raises(error, match=message) as caught:
            resolve("s3://models/llm/", {**keys, "endpoint_url": server.origin, "config": PATHS})
        assert time.monotonic() - since < 30
        assert "canarySecret" not in str(caught.value)


def test_a_refused_url_is_refused(s3: S3Server, stored: dict[str, bytes]) -> None:
    """The server does check: what the tests above fetch is fetched by its signature."""
    source = remote(resolve("s3://models/llm/model-1-of-3.safetensors", options(s3)).sources[0])
    from weightstream.sources import Access

    with pytest.raises(HTTPError) as caught:
        get(Access(source.access.url[:-1] + ("0" if source.access.url[-1] != "0" else "1")))
    assert caught.value.code == 403
    caught.value.close()


@pytest.mark.parametrize("location", ["s3://bucket/a.safetensors", "s3://bucket/m"])
def test_the_region_of_a_bucket_is_found_out(monkeypatch: pytest.MonkeyPatch, location: str) -> None:
    """Amazon sends who asks in the wrong region elsewhere; what is signed afterwards is signed for there."""
    from botocore.awsrequest import AWSResponse
    from botocore.httpsession import URLLib3Session

    listing = b"<ListBucketResult><Name>bucket</Name><Contents><Key>m/a.safetensors</Key></Contents></ListBucketResult>"
    asked: list[str] = []

    class Raw:
        def __init__(self, data: bytes) -> None:
            self.data = data

        def stream(self, **_: Any) -> list[bytes]:
            return [self.data]

    def send(self: URLLib3Session, request: Any) -> AWSResponse:
        asked.append(request.url)
        if "eu-north-1" in request.url:
            return AWSResponse(request.url, 200, {"ETag": '"e"'}, Raw(b"" if request.method == "HEAD" else listing))
        return AWSResponse(request.url, 301, {"x-amz-bucket-region": "eu-north-1"}, Raw(b""))

    monkeypatch.setattr(URLLib3Session, "send", send)
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": "us-west-2"}
    source = remote(resolve(location, keys).sources[0])
    assert len(asked) == 2
    assert urlsplit(source.access.url).hostname == "bucket.s3.eu-north-1.amazonaws.com"
    assert "eu-north-1" in parse_qs(urlsplit(source.access.url).query)["X-Amz-Credential"][0]
    assert source.renew is not None
    assert "s3.eu-north-1." in source.renew().url


@pytest.mark.parametrize(
    ("config", "settings", "host"),
    [
        ({}, {}, "bucket.s3.eu-west-1.amazonaws.com"),
        ({"s3": {"addressing_style": "path"}}, {}, "s3.eu-west-1.amazonaws.com"),
        ({"s3": {"use_accelerate_endpoint": True}}, {}, "bucket.s3-accelerate.amazonaws.com"),
        ({"use_fips_endpoint": True}, {"region_name": "us-east-2"}, "bucket.s3-fips.us-east-2.amazonaws.com"),
        ({"use_dualstack_endpoint": True}, {}, "bucket.s3.dualstack.eu-west-1.amazonaws.com"),
        ({}, {"anonymous": True}, "bucket.s3.eu-west-1.amazonaws.com"),
    ],
)
def test_how_buckets_are_addressed(config: dict[str, Any], settings: dict[str, Any], host: str) -> None:
    from weightstream.sources import s3 as backend
    from weightstream.sources.store import Entry

    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "aws_session_token": "ST"}
    with backend.connect("bucket", {"region_name": "eu-west-1", "config": config, **keys, **settings}) as store:
        access = remote(store.source(Entry("a.safetensors"))).access
    url = urlsplit(access.url)
    assert url.hostname == host
    query = parse_qs(url.query)
    if settings.get("anonymous"):
        assert (url.query, access.expires_at) == ("", None)
    else:
        # Nothing but the host is signed, so that nothing but the URL has to be sent.
        assert query["X-Amz-SignedHeaders"] == ["host"]
        assert query["X-Amz-Security-Token"] == ["ST"]
