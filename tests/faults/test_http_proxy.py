"""A proxy in between: it is asked for tunnels, sees no request and no credential of the storage, and may refuse."""

from __future__ import annotations

import pytest

import weightstream as ws
from servers.certificates import Authority
from servers.loads import Model, options
from servers.proxy import Proxy
from servers.scripted import ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(autouse=True)
def _no_other_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def load(server: ScriptedServer, model: Model, **settings: object) -> None:
    weights = ws.load(
        server.url(), framework="numpy", storage_options={**options(), "headers": {"X-Token": "canary"}, **settings}
    )
    assert {name: tensor.tobytes() for name, tensor in weights.items()} == {
        name: tensor.data for name, tensor in model.tensors.items()
    }


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_plain_http_goes_through_a_tunnel(remote_model: Model, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data) as server, Proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url())
        load(server, remote_model)
        assert proxy.tunnels
        assert set(proxy.tunnels) == {server.origin.partition("//")[2]}
        assert server.connections == len(proxy.tunnels)
        assert "canary" not in "".join(proxy.requests)


def test_tls_goes_through_a_tunnel(remote_model: Model, authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server, Proxy() as proxy:
        monkeypatch.setenv("https_proxy", proxy.url())
        load(server, remote_model, verify=str(authority.bundle))
        assert set(proxy.tunnels) == {server.origin.partition("//")[2]}
        assert server.connections == len(proxy.tunnels)


def test_no_proxy_goes_past_it(remote_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data) as server, Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        load(server, remote_model)
        assert proxy.tunnels == []


def test_a_proxy_that_wants_credentials(remote_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data) as server, Proxy(credentials="user:canary") as proxy:
        monkeypatch.setenv("http_proxy", proxy.url("user:canary@"))
        load(server, remote_model)
        assert set(proxy.tunnels) == {server.origin.partition("//")[2]}
        monkeypatch.setenv("http_proxy", proxy.url("user:wrong-canary@"))
        asked = len(proxy.requests)
        with pytest.raises(ws.AuthError, match=r"makes no tunnel to .* \(status 407\): it wants credentials") as caught:
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert caught.value.attempts == 1
        assert len(proxy.requests) == asked + 1
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize(("status", "attempts"), [(403, 1), (405, 1), (502, 2)])
def test_a_proxy_that_refuses(remote_model: Model, status: int, attempts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data) as server, Proxy(refuses=status) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        with pytest.raises(ws.ServerError, match=rf"the proxy makes no tunnel to .* \(status {status}\)") as caught:
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert caught.value.attempts == attempts
        assert len(proxy.requests) == attempts
        assert server.connections == 0


def test_a_proxy_that_is_not_there(remote_model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(remote_model.data) as server:
        with Proxy() as proxy:
            monkeypatch.setenv("http_proxy", proxy.url())
        with pytest.raises(ws.ServerError, match="no connection") as caught:
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert caught.value.attempts == 2  # connect_attempts
        assert server.connections == 0
