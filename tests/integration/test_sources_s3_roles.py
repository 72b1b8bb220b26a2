"""s3:// with credentials that nobody wrote down: roles of machines and pods, assumed roles, SSO, processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fetching import remote

import weightstream as ws
from servers.amazon import Amazon
from servers.programs import free_ports
from servers.s3 import REGION
from weightstream.sources import describe, resolve
from weightstream.sources.s3 import connect
from weightstream.sources.store import Entry

WAYS = {
    "instance": "the metadata service of the instance",
    "container": "the metadata service of the container",
    "web identity": "a web identity token",
    "assumed role": "an assumed role",
    "sso": "AWS SSO",
    "process": "a credential process",
}


@pytest.fixture
def amazon() -> Iterator[Amazon]:
    with Amazon() as services:
        yield services


@pytest.fixture(autouse=True)
def _home(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where botocore looks for the login; it has asked for the home when it was imported."""
    environment.setattr("botocore.credentials.SSOProvider._SSO_TOKEN_CACHE_DIR", str(tmp_path / ".aws/sso/cache"))


@pytest.mark.parametrize(("way", "said"), WAYS.items(), ids=WAYS)
def test_urls_are_signed_by_what_the_chain_finds_and_end_with_it(
    amazon: Amazon, way: str, said: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in amazon.environment(way, tmp_path).items():
        environment.setenv(name, value)
    options = {"region_name": REGION}
    described = describe("s3://models/a.safetensors", options)
    assert described is not None
    assert (described.credentials() or "").startswith(said)
    with connect("models", options) as store:
        source = remote(store.source(Entry("a.safetensors")))
    query = parse_qs(urlsplit(source.access.url).query)
    key = query["X-Amz-Credential"][0].partition("/")[0]
    name = way.replace(" ", "-")
    assert key.startswith(f"AK-{name}-")
    assert query["X-Amz-Security-Token"] == [f"session-of-{name}"]
    assert source.access.expires_at == pytest.approx(time.time() + amazon.lasts, abs=60)
    assert "canary" not in source.access.url + repr(source)


def test_a_role_is_asked_again_before_it_ends(amazon: Amazon, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in amazon.environment("container", tmp_path).items():
        environment.setenv(name, value)
    amazon.lasts = 60  # which botocore renews at once
    with connect("models", {"region_name": REGION}) as store:
        source = remote(store.source(Entry("a.safetensors")))
    amazon.lasts = 3000
    assert source.renew is not None
    again = source.renew()
    assert again.expires_at == pytest.approx(time.time() + 3000, abs=60)
    assert "AK-container" in again.url


@pytest.mark.parametrize(
    ("way", "said"),
    {
        "instance": "there are no AWS credentials",
        "container": "cannot be had .* check the role of this machine, task or pod",
        "web identity": "AssumeRoleWithWebIdentity was refused; check the role and its trust policy.*AccessDenied",
        "assumed role": "AssumeRole was refused; check the role and its trust policy.*AccessDenied",
        "sso": "GetRoleCredentials was refused; log in again .`aws sso login`",
    }.items(),
)
def test_a_service_that_refuses(way: str, said: str, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is the credentials that are missing then: nothing is wrong with the bucket."""
    with Amazon(refuses=True) as amazon:
        for name, value in amazon.environment(way, tmp_path).items():
            environment.setenv(name, value)
        for location in ("s3://models/llm", "s3://models/llm/model.safetensors"):
            with pytest.raises(ws.AuthError, match=said) as caught:
                resolve(location, {"region_name": REGION})
            assert not any(action in str(caught.value) for action in ("s3:ListBucket", "s3:GetObject"))
            assert "canary" not in str(caught.value)


def test_a_service_of_credentials_that_is_not_there(
    amazon: Amazon, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in amazon.environment("assumed role", tmp_path).items():
        environment.setenv(name, value)
    environment.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(ws.ServerError, match=r"cannot reach http://127.0.0.1, where credentials come from: it refused"):
        resolve("s3://models/llm", {"region_name": REGION})


def test_a_process_that_fails(environment: pytest.MonkeyPatch, tmp_path: Path, amazon: Amazon) -> None:
    for name, value in amazon.environment("process", tmp_path).items():
        environment.setenv(name, value)
    config = tmp_path / ".aws" / "config"
    config.write_text(config.read_text().replace("cat ", "cat canary "))
    with pytest.raises(
        ws.AuthError, match=r"credentials cannot be had .CredentialRetrievalError.; log in again"
    ) as caught:
        resolve("s3://models/llm", {"region_name": REGION})
    assert "canary" not in str(caught.value)
