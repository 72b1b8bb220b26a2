"""Access, transport and remote sources: what is refused, what the core gets, and that nothing shows a secret."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from fake_core import FakeCore, install  # noqa: F401
from servers.certificates import Authority
from weightstream.sources import Access, RemoteSource, Transport, remote

NUMBERS = {
    "max_attempts": 8,
    "connect_timeout": 10,
    "connect_attempts": 3,
    "backoff": 0.2,
    "backoff_cap": 10,
    "stall_seconds": 10,
    "stall_bytes": 65536,
    "first_byte_seconds": 30,
    "first_answer_seconds": 25,
    "deadline": 600,
    "hedge_seconds": 2,
    "max_redirects": 5,
}
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "AWS_CA_BUNDLE")


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in CA_VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_the_numbers_are_those_of_the_design() -> None:
    page = (Path(__file__).parents[2] / "docs/design/remote.md").read_text()
    table = page[page.index("**Numbers**") : page.index("**Security.**")]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    assert {name.strip().strip("`"): float(default) for name, default in rows} == NUMBERS
    transport = Transport.of({"http": NUMBERS})
    assert transport.options() == {"verify": True, "allow_plain_http": False, **NUMBERS}


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [-1, -0.5, float("nan"), float("inf"), 2**31, "3", None, True, [1]])
def test_a_number_that_cannot_work_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(ws.ConfigError, match=name):
        Transport.of({"http": {name: value}})


def test_more_time_for_every_answer_is_more_for_the_first() -> None:
    def first(**numbers: float) -> float | None:
        return Transport.of({"http": numbers}).options().get("first_answer_seconds")

    assert first(first_byte_seconds=120) == 120
    assert first(first_byte_seconds=120, first_answer_seconds=5) == 5
    assert first(first_byte_seconds=3) is None  # the core's
    assert first() is None


@pytest.mark.parametrize("name", ["max_attempts", "connect_attempts", "stall_bytes", "max_redirects"])
def test_a_count_is_whole(name: str) -> None:
    with pytest.raises(ws.ConfigError, match=f"{name}.*whole number"):
        Transport.of({"http": {name: 1.5}})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http": {"retries": 3}}, "'retries'; there are max_attempts"),
        ({"http": 3}, "must be a mapping, not int"),
        ({"verify": 1}, "verify must be"),
        ({"allow_plain_http": "yes"}, "allow_plain_http must be"),
        ({"verify": True, "http": {"verify": False}}, "'verify' twice"),
        ({"verify": "/nowhere/ca.pem"}, "verify names a CA bundle that is not there: /nowhere/ca.pem"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ws.ConfigError, match=message):
        Transport.of(options)


def test_which_ca_bundle_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    def bundle(name: str) -> str:
        (tmp_path / name).write_bytes(authority.bundle.read_bytes())
        return str(tmp_path / name)

    assert Transport.of({}).ca_bundle is None
    for variable in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # each wins over those before
        monkeypatch.setenv(variable, bundle(variable))
        assert Transport.of({}).ca_bundle == bundle(variable)
        assert Transport.of({}).ca_origin == variable
    assert Transport.of({}, bundle("sdk")).ca_bundle == bundle("sdk")
    for options in ({"verify": bundle("given")}, {"http": {"verify": Path(bundle("given"))}}):
        transport = Transport.of(options, bundle("sdk"))
        assert (transport.ca_bundle, transport.verify, transport.sdk_verify) == (bundle("given"), True, bundle("given"))
    off = Transport.of({"verify": False}, bundle("sdk"))
    assert (off.ca_bundle, off.verify, off.sdk_verify) == (None, False, False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    with pytest.raises(ws.ConfigError, match="REQUESTS_CA_BUNDLE names a CA bundle that is not there"):
        Transport.of({})


def test_what_named_the_ca_bundle(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> None:
    path = str(authority.bundle)
    assert (Transport.of({}).ca_origin, Transport.of({}).trust) == (None, None)
    assert Transport.of({}, path).ca_origin == "ca_bundle of the AWS profile"
    monkeypatch.setenv("AWS_CA_BUNDLE", path)
    transport = Transport.of({}, path)
    assert transport.options()["ca_origin"] == transport.ca_origin == "AWS_CA_BUNDLE"
    assert f"the CA bundle {path} (from AWS_CA_BUNDLE), which must hold" in str(transport.trust)
    assert Transport.of({"verify": path}, path).ca_origin == "verify"
    assert Transport.of({"verify": False}, path).ca_origin is None


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_that_is_no_ca_bundle(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "junk.pem"
    path.write_bytes(content)

    def check(said: str, options: dict[str, Any], sdk: str | None = None) -> None:
        with pytest.raises(ws.ConfigError, match=f"^{said} names a file that is no CA bundle: {path}.*as PEM$"):
            Transport.of(options, sdk)

    check("verify", {"verify": str(path)})
    check("verify", {"http": {"verify": path}})
    check("ca_bundle of the AWS profile", {}, str(path))
    monkeypatch.setenv("AWS_CA_BUNDLE", str(path))
    check("AWS_CA_BUNDLE", {}, str(path))
    for variable in ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.setenv(variable, str(path))
        check(variable, {})
    assert Transport.of({"verify": False}, str(path)).ca_bundle is None
    assert Transport.of({"verify": str(tmp_path)}).ca_bundle == str(tmp_path)  # of a folder nothing is known


SECRET = "canarySecret"


def test_nothing_shows_a_secret() -> None:
    access = Access(f"https://user:{SECRET}@host/a?sig={SECRET}", {"Authorization": SECRET}, 12.0)
    source = RemoteSource("https://host/a", access, 7, '"etag"', lambda: access)
    for shown in (repr(access), repr(source), str(access), f"{source}"):
        assert SECRET not in shown
        assert "https://host/a" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://host/a", "https://host/a"),
        ("https://u:p@host:8/a?q#f", "https://host:8/a"),
        ("https://p@ss@host/a", "https://host/a"),
        ("https://[broken/a?q", "https://..."),
    ],
)
def test_a_url_to_print(url: str, shown: str) -> None:
    assert remote.printable(url) == shown


def test_what_the_core_gets(fake_core: FakeCore) -> None:
    access = Access("https://host/a?sig=1", {"X-Token": "t"}, 12.5, "https://hub/b")
    renewals = object()
    transport = Transport.of({"http": {"deadline": 9}})
    made = RemoteSource("https://host/a", access, 7, '"e"', lambda: access, transport).core(renewals)
    assert (made.name, made.url, made.headers) == ("https://host/a", "https://host/a?sig=1", [("X-Token", "t")])
    assert (made.size, made.etag, made.expires_at, made.renewals) == (7, '"e"', 12.5, renewals)
    assert made.redirected_by == "https://hub/b"
    assert made.options == {"verify": True, "allow_plain_http": False, "deadline": 9.0}
    assert RemoteSource("https://host/a", access).core(renewals).renewals is None  # it cannot be renewed


@pytest.mark.parametrize("url", ["https://h/a", "http://localhost:8/a", "http://127.0.0.1/a", "http://[::1]:8/a"])
def test_credentials_may_go_encrypted_or_to_this_machine(url: str, caplog: pytest.LogCaptureFixture) -> None:
    remote.guard_credentials(url, Transport(), "the token")
    assert caplog.records == []


@pytest.mark.parametrize(
    "url", ["http://h/a", "http://localhost.evil.test/a", "http://127.evil.test/", "http://[::2]/"]
)
def test_credentials_go_unencrypted_only_by_request(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ws.ConfigError, match=r"the token.*unencrypted.*allow_plain_http"):
        remote.guard_credentials(f"{url}?sig={SECRET}", Transport(), "the token")
    with caplog.at_level(logging.WARNING, "weightstream"):
        remote.guard_credentials(f"{url}?sig={SECRET}", Transport.of({"allow_plain_http": True}), "the token")
    (record,) = caplog.records
    assert SECRET not in record.getMessage()
    assert "unencrypted" in record.getMessage()
