"""How objects of s3:// are reached: the URLs that are signed, for how long, in which region, and who pays."""

from __future__ import annotations

import logging
import time
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit

import pytest
from fetching import get, remote
from s3_settings import PATHS, options

import weightstream as ws
from servers.messages import plain
from servers.s3 import OWNER, READER, REGION, S3Server
from servers.scripted import ScriptedServer
from weightstream.sources import resolve
from weightstream.sources.s3 import connect
from weightstream.sources.store import Entry

pytestmark = pytest.mark.usefixtures("environment")


def test_a_url_is_signed_for_an_hour_and_anew(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    source = remote(resolve("s3://models/llm/model-1-of-3.safetensors", options(s3)).sources[0])
    query = parse_qs(urlsplit(source.access.url).query)
    assert query["X-Amz-Expires"] == ["3600"]
    assert source.access.expires_at == pytest.approx(time.time() + 3600, abs=30)
    assert READER.secret_key not in source.access.url
    assert source.renew is not None
    time.sleep(1.1)  # the date of a signature has seconds
    again = source.renew()
    assert again.url != source.access.url
    assert get(again) == stored_in_s3["model-1-of-3.safetensors"]


def test_a_url_ends_with_its_credentials(
    s3: S3Server, stored_in_s3: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
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
    assert get(source.access) == stored_in_s3["model-1-of-3.safetensors"]
    # When little is left, they are made anew before they sign.
    monkeypatch.setattr(credentials, "_expiry_time", credentials._expiry_time - datetime.timedelta(seconds=1400))
    assert source.renew is not None
    again = source.renew()
    assert made == 2
    assert READER.access_key in again.url
    assert again.expires_at == pytest.approx(time.time() + 2500, abs=10)
    assert get(again) == stored_in_s3["model-1-of-3.safetensors"]


def test_a_refused_url_is_refused(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    """The server does check: what the tests above fetch is fetched by its signature."""
    source = remote(resolve("s3://models/llm/model-1-of-3.safetensors", options(s3)).sources[0])
    from weightstream.sources import Access

    with pytest.raises(HTTPError) as caught:
        get(Access(source.access.url[:-1] + ("0" if source.access.url[-1] != "0" else "1")))
    assert caught.value.code == 403
    caught.value.close()


def test_anonymous(s3: S3Server, stored_in_s3: dict[str, bytes]) -> None:
    settings = {"endpoint_url": s3.endpoint, "region_name": REGION, "config": PATHS, "anonymous": True}
    with pytest.raises(ws.AuthError, match=r"cannot read the object.*needs s3:GetObject") as caught:
        resolve("s3://models/llm/model-1-of-3.safetensors", settings)
    assert caught.value.status == 403


def test_requester_pays_goes_with_each_request(stored_in_s3: dict[str, bytes]) -> None:
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


def test_signed_urls_over_plain_http_are_told_when_there_are_some(caplog: pytest.LogCaptureFixture) -> None:
    """Not before: a host that is not there gets none."""
    endpoint = "http://store-of-nobody.invalid:9000"
    settings = {"region_name": REGION, "endpoint_url": endpoint, "config": PATHS}
    keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK"}
    with caplog.at_level(logging.WARNING, "weightstream"):
        with pytest.raises(ws.ServerError, match="its name cannot be resolved"):
            resolve("s3://models/llm/", {**settings, **keys})
        with connect("models", {**settings, "anonymous": True}) as store:
            store.source(Entry("a.safetensors"))
        assert caplog.messages == []
        with connect("models", {**settings, **keys}) as store:
            store.source(Entry("a.safetensors"))
            store.source(Entry("b.safetensors"))
        assert caplog.messages == [f"{endpoint}: signed URLs travel unencrypted"]
