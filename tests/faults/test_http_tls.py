"""HTTPS: a private authority counts when it is named; what is not trusted is not tried again and never downgraded."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from servers.actions import Body, Rst, Status
from servers.certificates import Authority, make_authority
from servers.loads import Model, check_settled, every_request, options
from servers.nginx import NginxServer
from servers.scripted import MODEL, ScriptedServer
from weightstream._doctor import Doctor
from weightstream._pull import pull
from weightstream.sources import Access, RemoteSource, Transport
from weightstream.sources.fetch import fetch

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def _no_other_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(variable, raising=False)


def load(url: str, model: Model, verify: Any = None, **numbers: Any) -> None:
    storage_options = {**options(**numbers), **({} if verify is None else {"verify": verify})}
    weights = ws.load(url, framework="numpy", storage_options=storage_options)
    assert {name: tensor.tobytes() for name, tensor in weights.items()} == {
        name: tensor.data for name, tensor in model.tensors.items()
    }


def check_refused(
    server: ScriptedServer,
    model: Model,
    match: str,
    *,
    verify: Any = None,
    error: type[ws.WeightstreamError] = ws.ProtocolError,
) -> ws.WeightstreamError:
    """Refused at the first handshake: not tried again, and no request was sent."""
    connections, requests = server.connections, len(server.requests)
    with pytest.raises(error, match=match) as caught:
        load(server.url(), model, verify)
    assert type(caught.value) is error
    assert caught.value.source == server.url()
    assert f"{server.origin.partition('//')[2]}" in caught.value.message
    assert caught.value.attempts == 1
    assert server.connections == connections + 1
    assert len(server.requests) == requests
    check_settled(server)
    return caught.value


@pytest.mark.parametrize("how", ["option", "path", "folder", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_authority(
    remote_model: Model, authority: Authority, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        if how == "option":
            load(server.url(), remote_model, str(authority.bundle))
        elif how == "path":
            load(server.url(), remote_model, authority.bundle)
        elif how == "folder":
            load(server.url(), remote_model, authority.hashed(tmp_path))
        else:
            monkeypatch.setenv(how, str(authority.bundle))
            load(server.url(), remote_model)
        assert server.handshake_failures == []
        check_settled(server)


def test_a_private_authority_that_nobody_named(remote_model: Model, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        error = check_refused(server, remote_model, "certificate")
        assert "checked against the system's CA bundle; name a private CA by storage_options={'verify'" in str(error)
        load(server.url(), remote_model, authority.bundle)


def test_another_authority(
    remote_model: Model, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_authority(tmp_path).bundle
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        error = check_refused(server, remote_model, "certificate", verify=bundle)
        assert f"the CA bundle {bundle} (from verify), which must hold the CA that signed it: " in error.message
        monkeypatch.setenv("CURL_CA_BUNDLE", str(bundle))
        error = check_refused(server, remote_model, "certificate")
        assert f"the CA bundle {bundle} (from CURL_CA_BUNDLE), which must" in error.message


def test_the_certificate_of_another_host(remote_model: Model, tmp_path: Path) -> None:
    elsewhere = make_authority(tmp_path, "elsewhere.test")
    with ScriptedServer(remote_model.data, tls=elsewhere.context()) as server:
        check_refused(server, remote_model, "certificate", verify=elsewhere.bundle)


def test_a_certificate_that_has_ended(remote_model: Model, tmp_path: Path) -> None:
    old = make_authority(tmp_path, expired=True)
    with ScriptedServer(remote_model.data, tls=old.context()) as server:
        check_refused(server, remote_model, "certificate", verify=old.bundle)


def test_a_bundle_that_is_none(remote_model: Model, authority: Authority, tmp_path: Path) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        for name, data in (("empty", b""), ("nonsense", b"nonsense"), ("key", authority.key.read_bytes())):
            bundle = tmp_path / name
            bundle.write_bytes(data)
            with pytest.raises(ws.ConfigError, match=f"verify names a file that is no CA bundle: {bundle}"):
                load(server.url(), remote_model, bundle)
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("SSL_CERT_FILE", str(bundle))
                with pytest.raises(ws.ConfigError, match=f"SSL_CERT_FILE names a file that is no CA bundle: {bundle}"):
                    load(server.url(), remote_model)
            assert (server.connections, server.requests) == (0, [])
        with pytest.raises(ws.ConfigError, match="not there"):
            load(server.url(), remote_model, tmp_path / "missing")


def test_without_verification_only_on_request_and_with_a_warning(
    remote_model: Model, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server, caplog.at_level(logging.DEBUG):
        load(server.url(), remote_model, verify=False)
        warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 1
        assert server.url() in warnings[0]
        assert "not verified" in warnings[0]
        caplog.clear()
        load(server.url(), remote_model, verify=authority.bundle)
        assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_what_is_not_a_stream_warns_too(
    remote_model: Model, authority: Authority, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    unverified = {**options(), "verify": False}
    with ScriptedServer(remote_model.data, tls=authority.context()) as server, caplog.at_level(logging.DEBUG):
        source = RemoteSource("one", Access(server.url()), transport=Transport.of(unverified))

        def warned() -> list[str]:
            said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
            caplog.clear()
            return [line for line in said if "not verified" in line]

        assert fetch(source, 1 << 30) == remote_model.data
        assert len(warned()) == 1
        pull(server.url(), tmp_path, storage_options=unverified)
        assert len(warned()) == 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("WEIGHTSTREAM_STORAGE_OPTIONS", json.dumps(unverified))
            steps = {step.name: step.status for step in Doctor(server.url()).steps()}
        assert steps["header"] == steps["read"] == "ok"
        assert len(warned()) == 1


def test_headers_alone_are_enough_for_a_warning(
    remote_model: Model, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server, caplog.at_level(logging.DEBUG):
        with ws.open(server.url(), storage_options={**options(), "verify": False}) as checkpoint:
            assert len(checkpoint) == len(remote_model.tensors)
        assert [r.levelno for r in caplog.records if "not verified" in r.getMessage()] == [logging.WARNING]
        caplog.clear()
        server.always(Status(404))
        with pytest.raises(ws.NotFoundError):
            load(server.url(), remote_model, verify=False)
        assert [r.levelno for r in caplog.records if "not verified" in r.getMessage()] == [logging.WARNING]


def test_a_server_that_speaks_no_tls(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        with pytest.raises(ws.ProtocolError, match="TLS") as caught:
            load(server.url().replace("http:", "https:"), remote_model)
        assert (caught.value.attempts, server.connections, server.requests) == (1, 1, [])
        assert f"{server.host}:{server.port}" in str(caught.value)
        check_settled(server)


def test_http_to_a_server_that_speaks_tls(remote_model: Model, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        with pytest.raises((ws.ProtocolError, ws.ServerError)) as caught:
            load(server.url().replace("https:", "http:"), remote_model)
        assert f"{server.host}:{server.port}" in str(caught.value)
        assert server.requests == []
        check_settled(server)


def test_only_old_versions_of_tls(remote_model: Model, authority: Authority) -> None:
    import ssl
    import warnings

    context = authority.context()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    with ScriptedServer(remote_model.data, tls=context) as server:
        check_refused(server, remote_model, "TLS", verify=authority.bundle)


def test_a_handshake_that_breaks_off_is_tried_again(remote_model: Model, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        server.at_connection(1, Rst())
        load(server.url(), remote_model, authority.bundle)
        check_settled(server)
        server.heal()
        for k in range(1, 10):
            server.at_connection(k, Rst())
        with pytest.raises(ws.ServerError, match=f"{server.host}:{server.port}") as caught:
            load(server.url(), remote_model, authority.bundle, connect_attempts=3)
        assert caught.value.attempts == 3


@pytest.mark.parametrize("actions", [[Body(50_000), Rst()], [Status(503)]], ids=repr)
def test_each_request_fails_once(remote_model: Model, authority: Authority, actions: list[Any]) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        for _ in every_request(server, *actions):
            load(server.url(), remote_model, authority.bundle)
            check_settled(server)


def test_a_body_that_ends_without_a_word(remote_model: Model, authority: Authority) -> None:
    # An attacker can end a connection, but not the promise of its length.
    from servers.actions import Fin

    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        server.when(lambda request: request.number > 1, Body(1000), Fin())
        with pytest.raises(ws.TruncatedError):
            load(server.url(), remote_model, authority.bundle)


def test_nginx(nginx: NginxServer, remote_model: Model) -> None:
    (nginx.root / "tls.safetensors").write_bytes(remote_model.data)
    url = f"{nginx.https}/tls.safetensors"
    load(url, remote_model, nginx.authority.bundle)
    with pytest.raises(ws.ProtocolError, match="certificate"):
        load(url, remote_model)
    load(f"{nginx.http}/tls.safetensors", remote_model)
    with pytest.raises(ws.NotFoundError):
        load(f"{nginx.https}/nothing{MODEL}", remote_model, nginx.authority.bundle)
