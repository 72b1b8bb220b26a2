"""Connections that cannot be made, go stale, or have several addresses to go to."""

from __future__ import annotations

import errno
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from processes import run
from servers.actions import Fin, Finish, Head, Rst
from servers.certificates import Authority
from servers.loads import QUICK, Model, check_loads, check_settled, every_request, load
from servers.programs import free_ports
from servers.scripted import MODEL, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")


def test_nobody_listens(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        began = time.monotonic()
        with server.refusing(), pytest.raises(ws.ServerError, match=f"{server.host}:{server.port}") as caught:
            load(server.url(), connect_attempts=3)
        assert time.monotonic() - began < 3
        assert caught.value.source == server.url()
        assert (caught.value.attempts, caught.value.status) == (3, None)
        assert caught.value.errno == errno.ECONNREFUSED
        check_loads(server, remote_model)


def test_nobody_listens_for_a_moment(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (1, 2, 3):
            server.heal()
            server.at_connection(k, Rst())
            check_loads(server, remote_model)


def test_connections_that_go_stale_are_replaced_unseen(remote_model: Model) -> None:
    # Not even one retry is allowed: what a kept connection does is no attempt.
    with ScriptedServer(remote_model.data) as server:
        for _ in every_request(server, Finish()):
            check_loads(server, remote_model, max_attempts=1, concurrency=1)
        for actions in ([Finish()], [Head({"Connection": "close"}), Finish()]):
            server.heal()
            server.always(*actions)
            check_loads(server, remote_model, max_attempts=1)
            assert server.connections == len(server.requests)


def test_a_kept_connection_that_dies_with_the_next_request(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for action in (Rst(), Fin()):
            for k in (2, 3, 4):
                server.heal()
                server.when(lambda request, k=k: request.number == k and request.position > 1, action)  # type: ignore[misc]
                check_loads(server, remote_model, concurrency=1, max_attempts=1)
                assert len(server.requests) == 5


def test_connections_are_kept(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        check_loads(server, remote_model, concurrency=1)
        assert (server.connections, len(server.requests)) == (1, 4)


PROGRAM = """
    import ctypes, json
    import numpy
    import weightstream as ws
    from processes import core_threads, descriptors, wait_until

    url, settings = sys.argv[1], json.loads(sys.argv[2])
    net = ctypes.CDLL(None)
    for function, arguments in json.loads(sys.argv[3]):
        getattr(net, function)(*[a.encode() if isinstance(a, str) else a for a in arguments])
    ws.ConfigError  # nothing is imported late
    before = descriptors()
    outcomes = []
    for _ in range(int(sys.argv[4])):
        try:
            weights = ws.load(url, framework="numpy", storage_options=settings)
            outcomes.append(sum(tensor.nbytes for tensor in weights.values()))
        except ws.WeightstreamError as error:
            error.__traceback__ = None
            fields = ("source", "attempts", "status", "errno")
            outcomes.append([type(error).__name__, str(error), *(getattr(error, field) for field in fields)])
        wait_until(lambda: core_threads() == [], 1)
        assert descriptors() == before
    counts = {"resolutions": net.net_resolutions(), "connections": net.net_connections()}
    print(json.dumps({"outcomes": outcomes, **counts}))
"""


def faulty(
    preload: Path, url: str, *calls: tuple[Any, ...], times: int = 1, storage_options: Any = None, **numbers: Any
) -> dict[str, Any]:
    """What comes of loading `url` after these calls of net_faults.c."""
    settings = {"http": {**QUICK, **numbers}, **(storage_options or {})}
    arranged = json.dumps([(function, arguments) for function, *arguments in calls])
    result: dict[str, Any] = json.loads(run(PROGRAM, url, json.dumps(settings), arranged, times, preload=preload))
    return result


def nbytes(model: Model) -> int:
    return sum(len(tensor.data) for tensor in model.tensors.values())


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL])
def test_a_connection_that_fails_once(remote_model: Model, net_faults: Path, number: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (1, 2):
            got = faulty(net_faults, server.url(), ("net_connect_fails", server.port, number, k))
            assert got["outcomes"] == [nbytes(remote_model)]


def test_connections_that_always_fail(remote_model: Model, net_faults: Path) -> None:
    with ScriptedServer(remote_model.data) as server:
        got = faulty(
            net_faults, server.url(), ("net_connect_fails", server.port, errno.ECONNREFUSED, -1), connect_attempts=4
        )
        kind, text, source, attempts, status, _ = got["outcomes"][0]
        assert (kind, source, attempts, status) == ("ServerError", server.url(), 4, None)
        assert f"{server.host}:{server.port}" in text
        assert got["connections"] == 4
        assert server.connections == 0


@pytest.mark.parametrize(("error", "fails"), [(socket.EAI_AGAIN, 1), (socket.EAI_NONAME, 1)])
def test_a_name_that_does_not_resolve_once(remote_model: Model, net_faults: Path, error: int, fails: int) -> None:
    with ScriptedServer(remote_model.data, name="models.test") as server:
        calls = [("net_addresses", "127.0.0.1"), ("net_resolve_fails", error, fails, 0)]
        got = faulty(net_faults, server.url(), *calls)
        assert got["outcomes"] == [nbytes(remote_model)]
        assert server.requests[0].headers["Host"] == f"models.test:{server.port}"


def test_a_name_that_never_resolves(net_faults: Path) -> None:
    url = "http://models.test:1234/m.safetensors?secret=1"
    got = faulty(net_faults, url, ("net_resolve_fails", socket.EAI_NONAME, -1, 0), connect_attempts=3)
    kind, text, source, attempts, _, _ = got["outcomes"][0]
    assert (kind, source, attempts) == ("ServerError", url.partition("?")[0], 3)
    assert "models.test" in text
    assert "resolve" in text
    assert "secret" not in text
    assert got["resolutions"] == 3


@pytest.mark.parametrize("patient", [True, False])
def test_a_name_server_that_hangs(net_faults: Path, patient: bool) -> None:
    # Its threads cannot be ended, but nobody waits for them: neither the load, nor the interpreter's end.
    program = """
        import ctypes, json
        import numpy
        import weightstream as ws
        from processes import core_threads, wait_until

        ctypes.CDLL(None).net_addresses(b"127.0.0.1")
        ctypes.CDLL(None).net_resolve_fails(0, 0, 2)
        try:
            ws.load("http://models.test:1/m.safetensors", framework="numpy", storage_options=json.loads(sys.argv[1]))
        except (ws.TimeoutError, ws.ServerError) as error:
            print(error)
        if sys.argv[2] == "True":
            wait_until(lambda: core_threads() == [], 5)
    """
    began = time.monotonic()
    said = run(program, json.dumps({"http": {**QUICK, "connect_timeout": 0.3}}), patient, preload=net_faults)
    assert "models.test" in said
    assert patient or time.monotonic() - began < 2


def test_all_addresses_are_used(remote_model: Model, net_faults: Path) -> None:
    with (
        ScriptedServer(remote_model.data, name="models.test") as first,
        ScriptedServer(remote_model.data, host="127.0.0.2", port=first.port) as second,
    ):
        got = faulty(net_faults, first.url(), ("net_addresses", "127.0.0.1,127.0.0.2"), times=10)
        assert got["outcomes"] == [nbytes(remote_model)] * 10
        assert first.connections > 0
        assert second.connections > 0
        assert {request.path for request in [*first.requests, *second.requests]} == {MODEL}


def test_an_address_that_is_dead(remote_model: Model, net_faults: Path) -> None:
    with ScriptedServer(remote_model.data, name="models.test") as alive:
        for dead in ("127.0.0.3", "127.0.0.3,127.0.0.4,127.0.0.5"):
            got = faulty(net_faults, alive.url(), ("net_addresses", f"{dead},127.0.0.1"), times=2)
            assert got["outcomes"] == [nbytes(remote_model)] * 2


def test_a_name_and_its_certificate(remote_model: Model, net_faults: Path, authority: Authority) -> None:
    with ScriptedServer(remote_model.data, tls=authority.context(), name="models.test") as server:
        trusting = {"verify": str(authority.bundle)}
        got = faulty(net_faults, server.url(), ("net_addresses", "127.0.0.1"), storage_options=trusting)
        assert got["outcomes"] == [nbytes(remote_model)]
        other = server.url().replace("models.test", "other.test")
        got = faulty(net_faults, other, ("net_addresses", "127.0.0.1"), storage_options=trusting)
        assert got["outcomes"][0][0] == "ProtocolError"
        assert "certificate" in got["outcomes"][0][1]


def test_credentials_over_plain_http_only_on_request_and_with_a_warning(remote_model: Model, net_faults: Path) -> None:
    program = """
        import ctypes, json, logging
        import numpy
        import weightstream as ws

        url = sys.argv[1]
        ctypes.CDLL(None).net_addresses(b"127.0.0.1")  # which nobody can know by the name
        lines = []
        handler = logging.Handler()
        handler.emit = lambda record: lines.append((record.levelname, record.getMessage()))
        logging.getLogger("weightstream").addHandler(handler)
        logging.getLogger("weightstream").setLevel(logging.DEBUG)
        for allow in (False, True):
            settings = {"headers": {"Authorization": "Bearer secret"}, "allow_plain_http": allow}
            try:
                print(json.dumps(["loaded", len(ws.load(url, framework="numpy", storage_options=settings))]))
            except ws.ConfigError as error:
                print(json.dumps(["refused", str(error)]))
        print(json.dumps([text for level, text in lines if level == "WARNING"]))
    """
    with ScriptedServer(remote_model.data, name="models.test") as server:
        refused, loaded, warnings = map(json.loads, run(program, server.url(), preload=net_faults).splitlines())
        assert refused[0] == "refused"
        assert server.origin in refused[1]
        assert "allow_plain_http" in refused[1]
        assert loaded == ["loaded", len(remote_model.tensors)]
        assert len(warnings) == 1
        assert "unencrypted" in warnings[0]
        assert "secret" not in f"{refused}{warnings}"
        assert {request.headers["Authorization"] for request in server.requests} == {"Bearer secret"}


def test_ipv6(remote_model: Model) -> None:
    try:
        server = ScriptedServer(remote_model.data, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    with server:
        server.origin = f"http://[::1]:{server.port}"
        check_loads(server, remote_model)


def test_a_port_that_is_none() -> None:
    (port,) = free_ports(1)
    for url in (
        f"http://127.0.0.1:{port + 70_000}/m.safetensors",
        "http://127.0.0.1:port/m.safetensors",
        "http:///m.safetensors",
    ):
        with pytest.raises(ws.ConfigError):
            load(url)


def test_threads_of_the_core_never_wait_for_those_of_python(remote_model: Model) -> None:
    # Whoever joins a thread holds the GIL, perhaps: a thread that wants it for its last step would hang both.
    program = """
        import threading
        import numpy
        import weightstream as ws

        ended = threading.Event()

        def work():
            while not ended.is_set():
                sum(range(1000))

        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(150):
            with ws.open(sys.argv[1], framework="numpy") as checkpoint, checkpoint.stream() as stream:
                assert next(stream)
        ended.set()
        print("done")
    """
    with ScriptedServer(remote_model.data) as server:
        assert run(program, server.url(), timeout=100) == "done\n"


def test_many_servers_at_once(remote_model: Model, tmp_path: Path) -> None:
    with ScriptedServer(remote_model.data) as good, ScriptedServer({}) as empty:
        with pytest.raises(ws.NotFoundError) as caught:
            load([good.url(), empty.url("/none.safetensors")])
        assert caught.value.source == empty.url("/none.safetensors")
        check_settled(good)
        check_settled(empty)
