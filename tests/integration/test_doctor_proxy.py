"""The step "network" of `weightstream doctor` behind a proxy: it goes the way of reading, and says what it met."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import weightstream as ws
from checkpoints import raw, write_file
from servers.certificates import Authority
from servers.nginx import NginxServer
from servers.programs import free_ports
from servers.proxy import Proxy
from servers.scripted import ScriptedServer
from weightstream._doctor import Step
from weightstream._doctor.network import Way

QUICK = {"http": {"max_attempts": 1, "connect_attempts": 1, "connect_timeout": 3, "backoff": 0.01}}


@pytest.fixture
def data(tmp_path: Path) -> bytes:
    return write_file(tmp_path / "m.safetensors", {"a": raw("U8", (1000,), 1)}).read_bytes()


def look(server: ScriptedServer, bundle: Path | None = None) -> Step:
    step = Way(server.origin, "https", ca_bundle=None if bundle is None else str(bundle)).step()
    assert "canary" not in json.dumps(step.as_dict())
    return step


@pytest.mark.parametrize(
    ("variables", "through"),
    [
        ({"http_proxy": "{proxy}"}, True),
        ({"all_proxy": "{proxy}"}, True),
        ({"ALL_PROXY": "{host}"}, True),
        ({"HTTP_PROXY": "{proxy}"}, False),
        ({"https_proxy": "{proxy}"}, False),
        ({"http_proxy": "{proxy}", "no_proxy": "127.0.0.1"}, False),
        ({"http_proxy": "{proxy}", "NO_PROXY": "*"}, False),
        ({"http_proxy": "{proxy}", "no_proxy": "example.com 10.0.0.0/8"}, True),
        ({"http_proxy": "", "all_proxy": "{proxy}"}, True),
    ],
)
def test_it_goes_the_way_of_reading(
    data: bytes, variables: dict[str, str], through: bool, environment: pytest.MonkeyPatch
) -> None:
    with ScriptedServer(data) as server, Proxy() as proxy:
        for name, value in variables.items():
            environment.setenv(name, value.format(proxy=proxy.url(), host=proxy.url().partition("://")[2]))
        ws.load(server.url(), framework="numpy", storage_options=QUICK)
        asked = len(proxy.tunnels)
        assert (asked > 0) is through
        step = look(server)
        assert step.status == "ok"
        assert (len(proxy.tunnels) > asked) is through
        assert ("makes a tunnel to 127.0.0.1:" in step.summary) is through


def test_the_port_of_a_proxy_without_one(environment: pytest.MonkeyPatch, data: bytes) -> None:
    """Neither goes to port 80."""
    with ScriptedServer(data) as server:
        environment.setenv("http_proxy", "http://127.0.0.1")
        with pytest.raises(ws.ServerError, match=r"127\.0\.0\.1 port 1080"):
            ws.load(server.url(), framework="numpy", storage_options=QUICK)
        step = look(server)
    assert step.status == "fail"
    assert "127.0.0.1:1080 cannot be connected through the proxy http://127.0.0.1 (http_proxy)" in step.summary
    assert step.advice == "correct http_proxy, or name 127.0.0.1 in no_proxy; without a port it is 1080"


def test_tls_is_made_in_the_tunnel(authority: Authority, data: bytes, environment: pytest.MonkeyPatch) -> None:
    with ScriptedServer(data, tls=authority.context()) as server, Proxy(credentials="user:canary") as proxy:
        environment.setenv("https_proxy", proxy.url("user:canary@"))
        step = look(server, authority.bundle)
        assert (step.status, step.details["tls"][:5]) == ("ok", "TLSv1")
        assert proxy.tunnels == [server.origin.partition("//")[2]]
        step = look(server)
        assert step.status == "fail"
        assert "but TLS fails: " in step.summary
        assert "verify, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE, SSL_CERT_FILE" in str(step.advice)


def test_a_proxy_that_wants_credentials(data: bytes, environment: pytest.MonkeyPatch) -> None:
    with ScriptedServer(data) as server, Proxy(credentials="user:canary") as proxy:
        for userinfo in ("", "user:wrong-canary@"):
            environment.setenv("http_proxy", proxy.url(userinfo))
            step = look(server)
            assert step.status == "fail"
            assert "makes no tunnel to 127.0.0.1:" in step.summary
            assert "it answered 'HTTP/1.1 407 Proxy Authentication Required'" in step.summary
            assert "write http_proxy as http://user:password@host:port" in str(step.advice)
            assert step.details["proxy_status"] == 407


@pytest.mark.parametrize(
    ("status", "advice"), [(403, "let the proxy allow CONNECT to port"), (503, "cannot reach it, or is busy")]
)
def test_a_proxy_that_refuses(data: bytes, status: int, advice: str, environment: pytest.MonkeyPatch) -> None:
    with ScriptedServer(data) as server, Proxy(refuses=status) as proxy:
        environment.setenv("http_proxy", proxy.url())
        step = look(server)
        assert server.connections == 0
    assert step.status == "fail"
    assert f"it answered 'HTTP/1.1 {status} As Scripted'" in step.summary
    assert advice in str(step.advice)


def test_what_is_no_proxy(nginx: NginxServer, data: bytes, environment: pytest.MonkeyPatch) -> None:
    """A web server, what says something else than HTTP, what hangs up, and what says nothing."""
    with ScriptedServer(data) as server:
        environment.setenv("http_proxy", nginx.http)
        step = look(server)
        assert "it answered 'HTTP/1.1 40" in step.summary
        assert "let the proxy allow CONNECT" in str(step.advice)
        for said, summary in ((b"SSH-2.0-\x1b[31m\r\n\r\n", r"it answered 'SSH-2.0-\x1b[31m'"), (b"", "it broke the")):
            with _speaking(said) as url:
                environment.setenv("http_proxy", url)
                step = look(server)
            assert step.status == "fail"
            assert summary in step.summary
            assert "is what http_proxy names an HTTP proxy?" in str(step.advice)
        environment.setattr("weightstream._doctor.network.SECONDS", 0.5)
        with closing(socket.create_server(("127.0.0.1", 0))) as silent:
            environment.setenv("http_proxy", f"http://127.0.0.1:{silent.getsockname()[1]}")
            step = look(server)
        assert "the proxy makes no tunnel" in step.summary
        assert step.summary.endswith("no answer")


def test_other_kinds_of_proxies(authority: Authority, data: bytes, environment: pytest.MonkeyPatch) -> None:
    """SOCKS is not spoken. One that is asked by TLS has to have a certificate that is trusted."""
    with ScriptedServer(data) as server, Proxy() as proxy, ScriptedServer(data, tls=authority.context()) as secure:
        environment.setenv("all_proxy", proxy.url().replace("http://", "socks5h://"))
        step = look(server)
        assert (step.status, proxy.requests) == ("ok", [])
        assert step.summary.endswith("; what it allows was not asked")
        environment.setenv("all_proxy", secure.origin)
        step = look(server)
        assert step.status == "fail"
        assert "CERTIFICATE_VERIFY_FAILED" in step.summary
    (port,) = free_ports(1)
    environment.setenv("all_proxy", f"http://127.0.0.1:{port}0000")
    assert look(server).summary == "all_proxy is not of the form http://host:port"


@contextmanager
def _speaking(data: bytes) -> Iterator[str]:
    """Whoever connects is told this, and left."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(30)
        assert not thread.is_alive()


def test_the_url_of_a_proxy_is_not_shown() -> None:
    from weightstream._doctor.proxy import Proxy as Found

    found = Found("http_proxy", urlsplit("http://user:canary@127.0.0.1:3128"))
    assert repr(found) == "Proxy(http_proxy=http://127.0.0.1:3128)"
