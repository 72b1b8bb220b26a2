"""What is wrong with a location, a setting or the service of s3:// is said at once, in words that help."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from fetching import remote
from s3_settings import PATHS, options

import weightstream as ws
from servers.certificates import make_authority
from servers.messages import plain
from servers.nginx import NginxServer
from servers.programs import free_ports
from servers.s3 import OWNER, READER, REGION, STRANGER, S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import resolve

pytestmark = pytest.mark.usefixtures("environment")

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
        ("s3://private/a/", {}, ws.AuthError, r"needs s3:ListBucket \(HTTP status 403"),
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
    stored_in_s3: dict[str, bytes],
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
    assert "does not look like" not in str(caught.value)
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


def test_the_ca_bundle_of_the_aws_tools(authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 would find out at its first request, and call it an endpoint without TLS."""
    with ScriptedServer(lambda _: plain(200, "abc", {"ETag": '"e"'}), tls=authority.context()) as server:
        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": REGION, "config": PATHS}
        settings = {**keys, "endpoint_url": server.origin}
        location = "s3://models/a.safetensors"
        junk = tmp_path / "junk.pem"
        junk.write_text("junk")
        monkeypatch.setenv("AWS_CA_BUNDLE", str(junk))
        with pytest.raises(ws.ConfigError, match=f"AWS_CA_BUNDLE names a file that is no CA bundle: {junk}"):
            resolve(location, settings)
        other = make_authority(tmp_path).bundle
        monkeypatch.setenv("AWS_CA_BUNDLE", str(other))
        with pytest.raises(
            ws.ServerError,
            match=rf"not trusted; it was checked against the CA bundle {other} \(from AWS_CA_BUNDLE\), which must hold",
        ):
            resolve(location, settings)
        config = tmp_path / "config"
        config.write_text(f"[default]\nca_bundle = {junk}\n")
        monkeypatch.delenv("AWS_CA_BUNDLE")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        with pytest.raises(ws.ConfigError, match="ca_bundle of the AWS profile names a file that is no CA bundle"):
            resolve(location, settings)
        assert server.requests == []
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.bundle))
        (source,) = resolve(location, settings).sources
        assert remote(source).transport.ca_origin == "AWS_CA_BUNDLE"


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


@pytest.mark.parametrize(
    ("location", "error", "message"),
    [
        ("s3://gone/llm/", ws.NotFoundError, "cannot list the bucket: bucket 'gone' at http://127"),
        ("s3://gone/llm*", ws.NotFoundError, "cannot list the bucket: bucket 'gone' at http://127"),
        ("s3://gone/a.safetensors", ws.NotFoundError, "there is no bucket 'gone' at http://127"),
        ("s3://here/a.safetensors", ws.NotFoundError, "there is no such object in bucket 'here'.*check the key"),
        ("s3://here/closed/x.safetensors", ws.AuthError, "cannot read the object"),
        ("s3://folder/llm/", ws.ProtocolError, "cannot list the bucket: http://127.* redirects without a region"),
    ],
)
def test_an_endpoint_that_is_another_web_server(
    nginx: NginxServer, location: str, error: type[ws.WeightstreamError], message: str
) -> None:
    """Its 404 is not about the key, and its 403 not about permissions, or not only."""
    (nginx.root / "here").write_bytes(b"")  # HEAD of the bucket finds it
    (nginx.root / "folder").mkdir(exist_ok=True)  # and is redirected to one with a slash
    settings = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": REGION, "config": PATHS}
    endpoint = nginx.http + ("/private" if "closed" in location else "")
    with pytest.raises(error, match=message) as caught:
        resolve(location, {**settings, "endpoint_url": endpoint})
    assert "the answer does not look like one of S3: check the endpoint" in str(caught.value)
    assert "AWS_ENDPOINT_URL" in str(caught.value)
    assert "wrong region" not in str(caught.value)
