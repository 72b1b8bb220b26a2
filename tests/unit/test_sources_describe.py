"""How a location is reached, as `doctor` tells: nothing is asked over the network before the credentials are."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

import weightstream as ws
from weightstream.sources import describe

ACCOUNT = "account.blob.core.windows.net"
S3 = {"aws_access_key_id": "AK", "aws_secret_access_key": "canary", "region_name": "eu-west-1"}
HEADERS = {"Authorization": "Bearer canary"}


class Token:
    """A credential of Azure."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked = 0

    def get_token(self, *scopes: str, **_: Any) -> None:
        self.asked += 1
        if self.error is not None:
            raise self.error


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    asked: list[Any] = []

    def connect(self: socket.socket, address: Any) -> None:
        asked.append(address)
        raise OSError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: asked.append(address) or [])
    for variable in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(variable, raising=False)
    yield asked
    assert asked == []


@pytest.mark.parametrize(
    ("location", "options", "root", "endpoint", "credentials"),
    [
        ("s3://b/k/m", S3, "s3://b", "https://s3.eu-west-1.amazonaws.com", "keys in storage_options"),
        ("gs://b/k/m", {"anonymous": True}, "gs://b", "https://storage.googleapis.com", "none, as storage_options say"),
        ("gs://b/k/m", {"credentials": Token()}, "gs://b", "https://storage.googleapis.com", "must be of google.auth"),
        (
            f"az://c@{ACCOUNT}/k/m",
            {"sas_token": "sig=canary"},
            f"az://c@{ACCOUNT}",
            f"https://{ACCOUNT}",
            "sas_token in",
        ),
        (f"az://c@{ACCOUNT}/k/m", {"credential": Token()}, f"az://c@{ACCOUNT}", f"https://{ACCOUNT}", "credential in"),
        ("hf://o/r@v/k/m", {"token": "canary"}, "hf://o/r@v", "https://huggingface.co", "token in storage_options"),
        ("hf://datasets/o/r/k/m", {"token": False}, "hf://datasets/o/r", "https://huggingface.co", "none; public"),
        ("https://u:canary@h/k/m?q=canary", {}, "https://h/k/", "https://h", "in the URL and the query of the URL"),
        ("https://h/k/m", {"headers": HEADERS}, "https://h/k/", "https://h", "the headers Authorization of"),
    ],
)
def test_a_location_is_described(
    location: str, options: dict[str, Any], root: str, endpoint: str, credentials: str
) -> None:
    found = describe(location, options)
    assert found is not None
    assert (found.root, found.endpoint, found.ca_bundle, found.verify) == (root, endpoint, None, True)
    assert found.key.endswith("m")
    assert "canary" not in repr(found)
    try:
        said = str(found.credentials())
    except ws.ConfigError as error:
        said = str(error)
    assert credentials in said
    assert "canary" not in said


def test_a_local_path_is_not() -> None:
    assert describe("/a/b", {}) is None


def test_a_token_is_asked_for_with_the_credentials_and_not_before() -> None:
    token = Token(OSError("canary"))
    found = describe(f"az://c@{ACCOUNT}/m", {"credential": token})
    assert found is not None
    assert token.asked == 0
    with pytest.raises(ws.ServerError, match="cannot make a token") as caught:
        found.credentials()
    assert token.asked == 1
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "options"),
    [
        ("s3://b/m", {"config": 7}),
        ("gs://b/m", {"verify": 7}),
        ("az://c/m", {"sas_token": "x"}),
        ("hf://o/r/m", {"verify": 7}),
        ("https://h/m", {"headers": 7}),
    ],
)
def test_what_cannot_work_is_said(location: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ws.ConfigError):
        describe(location, options)
