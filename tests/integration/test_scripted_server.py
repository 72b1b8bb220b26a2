"""The scripted server does what the fault tests tell it to do, and nothing else."""

from __future__ import annotations

import http.client
import ssl
import threading
import time
from collections import Counter

import pytest

from checkpoints import pattern
from processes import descriptors
from servers.actions import (
    Body,
    Chunked,
    Extra,
    Fin,
    Finish,
    Head,
    Raw,
    Redirect,
    Rst,
    Serve,
    Slow,
    Stall,
    Status,
    Whole,
)
from servers.certificates import Authority
from servers.messages import Object
from servers.scripted import MODEL, Action, ScriptedServer

DATA = pattern(100_000, 5)


def client(server: ScriptedServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.host, server.port, timeout=5)


def ask(
    connection: http.client.HTTPConnection, path: str = MODEL, **headers: str
) -> tuple[http.client.HTTPResponse, bytes]:
    connection.request("GET", path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    response = connection.getresponse()
    return response, response.read()


def test_it_serves_well_what_no_script_covers() -> None:
    with ScriptedServer(DATA) as server:
        connection = client(server)
        response, body = ask(connection, Range="bytes=100-199")
        etag = server.object().etag
        assert etag is not None
        assert (response.status, body) == (206, DATA[100:200])
        assert response.headers["Content-Range"] == "bytes 100-199/100000"
        assert response.headers["ETag"] == etag
        assert response.headers["x-amz-request-id"] == server.request_id(1)
        assert ask(connection, Range="bytes=-10")[1] == DATA[-10:]
        assert ask(connection, Range="bytes=99990-200000")[1] == DATA[-10:]
        assert ask(connection, Range="bytes=100000-")[0].status == 416
        assert ask(connection, If_Match=etag)[0].status == 200
        server.replace(DATA[::-1])
        assert ask(connection, If_Match=etag)[0].status == 412
        assert ask(connection)[1] == DATA[::-1]
        assert ask(connection, "/nothing")[0].status == 404
        connection.close()
        assert server.connections == 1
        assert [request.position for request in server.requests] == [*range(1, 9)]
        assert server.requests[0].range_of(1000) == (100, 200)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        ([Status(503, {"Retry-After": "1"}, "slow down")], (503, b"slow down")),
        ([Head({"ETag": None}, status=200)], (200, DATA[10:20])),
        ([Redirect("/there")], (302, b"")),
        ([Serve(begin=0)], (206, DATA[:20])),
        ([Serve(of=Object(DATA[::-1]))], (206, DATA[::-1][10:20])),
        ([Whole()], (200, DATA)),
        ([Chunked(size=3)], (206, DATA[10:20])),
        ([Body(3), Stall(0.1)], (206, DATA[10:20])),
        ([Stall(0.1)], (206, DATA[10:20])),
        ([Slow(100)], (206, DATA[10:20])),
        ([Slow(5000, head=True)], (206, DATA[10:20])),
        ([Raw(b"HTTP/1.1 299 Odd\r\nContent-Length: 2\r\n\r\nab")], (299, b"ab")),
        ([Body(3), Fin()], http.client.IncompleteRead),
        ([Chunked(size=3, count=7)], http.client.IncompleteRead),
        ([Body(3), Rst()], ConnectionResetError),
        ([Fin()], http.client.RemoteDisconnected),
        ([Rst()], ConnectionResetError),
        ([Raw(b"nonsense\r\n\r\n"), Fin()], http.client.BadStatusLine),
    ],
)
def test_an_action_happens_once(actions: list[Action], expected: tuple[int, bytes] | type[Exception]) -> None:
    with ScriptedServer(DATA) as server:
        server.at(2, *actions)
        for number in range(1, 4):
            connection = client(server)
            if number == 2 and isinstance(expected, type):
                with pytest.raises(expected):
                    ask(connection, Range="bytes=10-19")
            else:
                response, body = ask(connection, Range="bytes=10-19")
                assert (response.status, body) == (expected if number == 2 else (206, DATA[10:20]))
            connection.close()


def test_a_connection_that_goes_stale() -> None:
    with ScriptedServer(DATA) as server:
        server.at(1, Finish())
        connection = client(server)
        assert ask(connection)[1] == DATA
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            ask(connection)
        connection.close()


def test_bytes_behind_the_body() -> None:
    with ScriptedServer(DATA) as server:
        server.at(1, Extra(b"HTTP/1.1 200 OK\r\n"), Fin())
        connection = client(server)
        connection.request("GET", MODEL)
        response = connection.getresponse()
        stream = response.fp
        assert stream.read() == DATA + b"HTTP/1.1 200 OK\r\n"
        connection.close()


def test_connections_that_meet_something() -> None:
    with ScriptedServer(DATA) as server:
        server.at_connection(1, Rst())
        with pytest.raises(ConnectionError):
            ask(client(server))
        with server.refusing(), pytest.raises(ConnectionRefusedError):
            ask(client(server))
        connection = client(server)
        assert ask(connection)[1] == DATA
        connection.close()
        assert (server.connections, len(server.requests)) == (2, 1)


def test_tls(authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.bundle)
    with ScriptedServer(DATA, tls=authority.context()) as server:
        server.at(2, Body(5), Rst())
        for number in (1, 2, 3):
            connection = http.client.HTTPSConnection(server.host, server.port, timeout=5, context=context)
            if number == 2:
                with pytest.raises((OSError, http.client.IncompleteRead)):
                    ask(connection)
            else:
                assert ask(connection)[1] == DATA
            connection.close()
        doubting = http.client.HTTPSConnection(server.host, server.port, context=ssl.create_default_context())
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(doubting)
    assert len(server.handshake_failures) == 1


def test_it_leaves_nothing_behind() -> None:
    before = Counter(descriptors()), threading.active_count()
    began = time.monotonic()
    server = ScriptedServer(DATA)
    server.always(Body(10), Stall(60))
    connections = [client(server) for _ in range(5)]
    for connection in connections:
        connection.request("GET", MODEL)
    idle = client(server)
    idle.connect()
    server.close()
    for connection in [*connections, idle]:
        connection.close()
    assert (Counter(descriptors()), threading.active_count()) == before
    assert time.monotonic() - began < 5


def test_it_says_what_went_wrong_in_it() -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    server = ScriptedServer(broken)  # type: ignore[arg-type]
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        ask(client(server))
    with pytest.raises(ZeroDivisionError):
        server.close()
