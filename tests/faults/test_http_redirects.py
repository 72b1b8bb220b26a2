"""Redirects: followed where that is safe, and no farther; credentials stay with the origin that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest

import weightstream as ws
from servers.actions import Body, Fin, Redirect, Status
from servers.certificates import Authority
from servers.loads import Model, check_fails, check_loads, check_settled, options
from servers.messages import Request
from servers.proxy import Proxy
from servers.scripted import MODEL, Action, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")

TOKEN = "Bearer token-of-the-tests"
QUERY = "X-Amz-Signature=signatureOfTheTests"


@pytest.fixture
def cdn(remote_model: Model) -> Iterator[ScriptedServer]:
    """Another origin, with the model."""
    with ScriptedServer(remote_model.data) as server:
        yield server


def is_model(request: Request) -> bool:
    return request.path == MODEL


def load_with_token(url: str, model: Model, *, concurrency: int | None = None, **numbers: float) -> None:
    storage_options = {**options(**numbers), "headers": {"Authorization": TOKEN, "X-Api-Key": "key-of-the-tests"}}
    weights = ws.load(url, framework="numpy", concurrency=concurrency, storage_options=storage_options)
    assert {name: tensor.tobytes() for name, tensor in weights.items()} == {
        name: tensor.data for name, tensor in model.tensors.items()
    }


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_followed_to_another_place_of_the_server(remote_model: Model, status: int) -> None:
    with ScriptedServer({"/there/m.safetensors": remote_model.data}) as server:
        for location in ("/there/m.safetensors", "there/m.safetensors", server.url("/there/m.safetensors")):
            server.heal()
            server.when(is_model, Redirect(location, status))
            load_with_token(server.url(), remote_model)
            assert {request.headers["Authorization"] for request in server.requests} == {TOKEN}
            assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_followed_to_another_server_without_credentials(remote_model: Model, cdn: ScriptedServer, status: int) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url(f"{MODEL}?{QUERY}"), status))
        load_with_token(server.url(), remote_model)
        assert {request.headers["Authorization"] for request in server.requests} == {TOKEN}
        assert {request.headers["X-Api-Key"] for request in server.requests} == {"key-of-the-tests"}
        for request in cdn.requests:
            assert request.headers["Authorization"] is None
            assert request.headers["X-Api-Key"] is None
            assert request.headers["Cookie"] is None
            assert request.headers["Referer"] is None
            assert request.target == f"{MODEL}?{QUERY}"
            assert "token-of-the-tests" not in repr(request.headers.lines)
        check_settled(server)


def test_userinfo_of_the_url_is_dropped_too(remote_model: Model, cdn: ScriptedServer) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url()))
        check_url = server.url().replace("http://", "http://user:password-of-the-tests@")
        weights = ws.load(check_url, framework="numpy", storage_options=options())
        assert len(weights) == len(remote_model.tensors)
        assert all((request.headers["Authorization"] or "").startswith("Basic ") for request in server.requests)
        assert all(request.headers["Authorization"] is None for request in cdn.requests)


def test_the_same_host_on_another_port_is_another_origin(remote_model: Model, cdn: ScriptedServer) -> None:
    with ScriptedServer({}) as server:
        assert server.host == cdn.host
        server.always(Redirect(cdn.url()))
        load_with_token(server.url(), remote_model)
        assert all("Authorization" not in request.headers for request in cdn.requests)


def test_credentials_do_not_come_back_on_a_way_through_another_origin(remote_model: Model) -> None:
    with ScriptedServer({"/last": remote_model.data}) as server, ScriptedServer({}) as other:
        server.when(is_model, Redirect(other.url()))
        other.always(Redirect(server.url("/last")))
        load_with_token(server.url(), remote_model)
        assert all("Authorization" not in request.headers for request in other.requests)
        assert all(request.headers["Authorization"] in (None, TOKEN) for request in server.requests)


def test_where_it_leads_is_remembered(remote_model: Model, cdn: ScriptedServer) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url()))
        load_with_token(server.url(), remote_model)
        assert len(server.requests) == 1
        assert len(cdn.requests) > 3


@pytest.mark.parametrize(
    "actions",
    [
        [Status(503)],
        [Fin()],
        [Body(1000), Fin()],
        [
            Status(500),
        ],
    ],
    ids=repr,
)
def test_a_second_server_that_fails_now_and_then(
    remote_model: Model, cdn: ScriptedServer, actions: list[Action]
) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url()))
        cdn.at({1, 3}, *actions)
        load_with_token(server.url(), remote_model)


def test_an_address_that_expires_is_asked_for_again(remote_model: Model, cdn: ScriptedServer) -> None:
    for status in (403, 404):
        with ScriptedServer({}) as server:
            server.at(1, Redirect(cdn.url(f"{MODEL}?old")))
            server.always(Redirect(cdn.url(f"{MODEL}?new")))
            cdn.heal()
            cdn.at(1)
            cdn.when(lambda request: request.target.endswith("?old"), Status(status))
            load_with_token(server.url(), remote_model, concurrency=1)
            assert len(server.requests) == 2
            assert cdn.requests[-1].target.endswith("?new")


@pytest.mark.parametrize("hops", [1, 5])
def test_as_many_as_are_allowed(remote_model: Model, hops: int) -> None:
    places = [MODEL, *(f"/{i}" for i in range(1, hops + 1))]
    with ScriptedServer({places[-1]: remote_model.data}) as server:
        for here, there in pairwise(places):
            server.when(lambda request, here=here: request.path == here, Redirect(there))  # type: ignore[misc]
        load_with_token(server.url(), remote_model, max_redirects=hops)
        with pytest.raises(ws.ProtocolError, match="redirect"):
            load_with_token(server.url(), remote_model, max_redirects=hops - 1)


@pytest.mark.parametrize("most", [5, 1, 0])
def test_a_loop_of_redirects(remote_model: Model, most: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(Redirect(MODEL))
        failure = check_fails(
            server, remote_model, ws.ProtocolError, "redirect", settings={"max_redirects": most}, status=302
        )
        assert len(failure.requests) == most + 1


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "file://127.0.0.1/etc/passwd",
        "ftp://127.0.0.1/m.safetensors",
        "gopher://127.0.0.1:70/_",
        "dict://127.0.0.1:11111/",
        "ldap://127.0.0.1/",
        "smb://127.0.0.1/share/m",
        "data:application/octet-stream;base64,AAAA",
        "javascript:alert(1)",
        "unix:/var/run/docker.sock",
        "http://",
        "http://a b/m.safetensors",
        "http://127.0.0.1:99999/m.safetensors",
        "http://[::1/m.safetensors",
    ],
)
@pytest.mark.parametrize("k", [1, 3])
def test_only_to_http_and_https(remote_model: Model, location: str, k: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(k, Redirect(location))
        failure = check_fails(
            server, remote_model, ws.ProtocolError, "redirect", settings={"concurrency": 1}, status=302, request_id=k
        )
        assert len(failure.requests) == k
        assert "root:" not in str(failure.error)


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "//169.254.170.2/v2/credentials",
        "http://2852039166/m.safetensors",
        "http://[fe80::1]/m.safetensors",
        "http://[::ffff:a9fe:a9fe]/m.safetensors",
        "http://[fd00:ec2::254]/m.safetensors",
    ],
)
def test_not_to_the_metadata_service(remote_model: Model, location: str) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Redirect(location))
        failure = check_fails(server, remote_model, ws.ProtocolError, "link-local or metadata address", status=302)
        assert len(failure.requests) == 1


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A way to servers that are not on this machine, as far as anybody here can see: names that a proxy knows."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with Proxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url())
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        yield proxy


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST.", "2130706433", "0.0.0.0", "[::1]"])
def test_not_from_elsewhere_to_this_machine(
    remote_model: Model, cdn: ScriptedServer, elsewhere: Proxy, host: str
) -> None:
    with ScriptedServer({}) as server:
        elsewhere.names["models.test:80"] = server.origin.partition("//")[2]
        server.always(Redirect(f"http://{host}:{cdn.port}{MODEL}?{QUERY}"))
        with pytest.raises(ws.ProtocolError, match=r"redirects to this machine .*from elsewhere this is not") as caught:
            ws.load(f"http://models.test{MODEL}", framework="numpy", storage_options=options())
        assert (caught.value.source, caught.value.status) == (f"http://models.test{MODEL}", 302)
        assert "signatureOfTheTests" not in str(caught.value)
        assert len(server.requests) == 1
        assert cdn.connections == 0


def test_a_proxy_on_this_machine_is_not_where_it_leads(
    remote_model: Model, cdn: ScriptedServer, elsewhere: Proxy
) -> None:
    with ScriptedServer({}) as server:
        elsewhere.names["models.test:80"] = server.origin.partition("//")[2]
        elsewhere.names["cdn.test:80"] = cdn.origin.partition("//")[2]
        server.always(Redirect(f"http://cdn.test{MODEL}"))
        assert len(ws.load(f"http://models.test{MODEL}", framework="numpy", storage_options=options())) == len(
            remote_model.tensors
        )


def test_never_from_https_to_http(remote_model: Model, cdn: ScriptedServer, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as server:
        server.always(Redirect(cdn.url(f"{MODEL}?{QUERY}")))
        with pytest.raises(ws.ProtocolError, match="https") as caught:
            ws.load(server.url(), framework="numpy", storage_options={**options(), "verify": str(authority.bundle)})
        assert (caught.value.source, caught.value.status) == (server.url(), 302)
        assert "signatureOfTheTests" not in str(caught.value)
        assert cdn.connections == 0
        check_settled(server)


def test_from_http_to_https_and_its_certificate_counts(remote_model: Model, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context()) as safe, ScriptedServer({}) as server:
        server.always(Redirect(safe.url()))
        storage_options = {**options(), "verify": str(authority.bundle)}
        assert len(ws.load(server.url(), framework="numpy", storage_options=storage_options)) == len(
            remote_model.tensors
        )
        requests = len(safe.requests)
        with pytest.raises(ws.ProtocolError, match="certificate"):
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert len(safe.requests) == requests


def test_the_object_there_has_a_version_too(remote_model: Model, cdn: ScriptedServer) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url()))
        cdn.at(2, Body(1000), Fin())
        check_loads(server, remote_model)
        assert {request.headers["If-Match"] for request in cdn.requests[1:]} == {cdn.object().etag}
        cdn.heal()
        cdn.at(3, Status(412))
        with pytest.raises(ws.SourceChangedError) as caught:
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert caught.value.source == server.url()


@pytest.mark.parametrize("status", [300, 304, 305, 306, 399])
def test_other_statuses_of_the_kind(remote_model: Model, status: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Redirect("/elsewhere", status))
        failure = check_fails(server, remote_model, ws.ProtocolError, status=status)
        assert len(failure.requests) == 1


def test_a_redirect_that_names_a_user(remote_model: Model, cdn: ScriptedServer) -> None:
    with ScriptedServer({}) as server:
        server.always(Redirect(cdn.url().replace("http://", "http://someone:password-of-the-tests@")))
        cdn.always(Status(403))
        with pytest.raises(ws.AuthError) as caught:
            ws.load(server.url(), framework="numpy", storage_options=options())
        assert "password-of-the-tests" not in str(caught.value)
        assert "someone" not in str(caught.value)
