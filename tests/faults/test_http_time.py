"""Servers that take their time: nothing waits for ever, and what is only slow is waited for."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import assert_same, raw
from processes import command, environment, wait_until
from servers.actions import Body, Fin, Slow, Stall, Status
from servers.loads import QUICK, Model, check_fails, check_loads, check_settled, every_request, heal, load, options
from servers.messages import Object
from servers.ports import bind_to_new_port
from servers.scripted import Action, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")

HASTY = {"stall_seconds": 0.2, "first_byte_seconds": 0.1, "connect_timeout": 0.2}


@pytest.mark.parametrize("actions", [[Stall(30)], [Body(70_000), Stall(30)]], ids=repr)
def test_each_request_hangs_once(remote_model: Model, actions: list[Action]) -> None:
    with ScriptedServer(remote_model.data) as server:
        for _ in every_request(server, *actions):
            check_loads(server, remote_model, within=3, **HASTY)


@pytest.mark.parametrize(
    "actions",
    [[Body(0), Stall(30)], [Body(1), Stall(30)], [Body(70_000), Slow(2000)], [Slow(100, head=True)]],
    ids=repr,
)
def test_many_ways_to_hang(remote_model: Model, actions: list[Action]) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({1, 4}, *actions)
        check_loads(server, remote_model, within=4, **HASTY)


def test_a_stalled_body_goes_on_at_its_byte_on_a_new_connection(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (1, 3):
            server.at(k, Body(70_000), Stall(30))
            check_loads(server, remote_model, concurrency=1, within=3, stall_seconds=0.8)
            stalled, again = server.requests[k - 1 : k + 1]
            begin, end = stalled.range_of(len(remote_model.data)) or (0, 0)
            assert again.range_of(len(remote_model.data)) == (begin + 70_000, end)
            assert again.headers["If-Match"] == server.object().etag
            assert again.connection != stalled.connection
            server.heal()


@pytest.mark.parametrize(
    ("k", "actions"),
    [
        (1, [Stall(30)]),
        (3, [Body(0), Stall(30)]),
        (1, [Slow(100, head=True)]),
        (1, [Body(1000), Stall(30)]),
        (3, [Body(1000), Slow(2000)]),
    ],
    ids=repr,
)
def test_a_server_that_always_hangs(remote_model: Model, k: int, actions: list[Action]) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number >= k, *actions)
        failure = check_fails(
            server,
            remote_model,
            ws.TimeoutError,
            settings={**HASTY, "max_attempts": 2, "concurrency": 1},
            within=4,
            attempts=2,
        )
        assert len(failure.requests) == k + 1
        assert "2 attempts" in str(failure.error)


SILENT = {"first_answer_seconds": 0.6, "first_byte_seconds": 60, "connect_timeout": 60, "max_attempts": 1000}


@pytest.mark.parametrize(
    ("actions", "last"),
    [([Stall(60)], ""), ([Fin()], "; last: http"), ([Slow(10, head=True)], "")],
    ids=["silent", "ends", "begins"],
)
def test_a_host_that_never_answers(remote_model: Model, actions: list[Action], last: str) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(*actions)
        failure = check_fails(
            server,
            remote_model,
            ws.TimeoutError,
            f"nothing came from {server.origin} in 0.6 s: check the endpoint, the network and its firewalls{last}",
            settings={**SILENT, "backoff": 60, "backoff_cap": 60},
            within=3,
            status=None,
        )
        assert failure.connections == failure.error.attempts == 1


def test_a_host_that_takes_no_connection() -> None:
    with unresponsive() as origin:
        began = time.monotonic()
        with pytest.raises(ws.TimeoutError, match=f"nothing came from {origin} in 0.6 s"):
            load(f"{origin}/m.safetensors", **SILENT)
        assert 0.6 <= time.monotonic() - began < 3


def test_a_host_that_says_nothing_to_tls(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(Stall(60))
        server.at_connection(1, Stall(60))
        url = server.url().replace("http:", "https:")
        origin = server.origin.replace("http:", "https:")
        began = time.monotonic()
        with pytest.raises(ws.TimeoutError, match=f"nothing came from {origin} in 0.6 s"):
            load(url, **SILENT)
        assert 0.6 <= time.monotonic() - began < 3
        check_settled(server)


def test_a_host_that_answered_before_is_asked_as_often_as_ever(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        check_loads(server, remote_model)
        server.heal()
        server.always(Stall(60))
        failure = check_fails(
            server,
            remote_model,
            ws.TimeoutError,
            "the server did not answer in time",
            settings={**HASTY, "first_answer_seconds": 0.1, "max_attempts": 3},
            within=4,
            attempts=3,
        )
        assert len(failure.requests) == 3


def test_a_slow_first_byte_is_waited_for(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(Stall(1.2))
        check_loads(server, remote_model, first_byte_seconds=5, within=6)
        assert len(server.requests) == 4  # none of them twice


def test_a_slow_first_byte_is_no_stall(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({1, 2}, Body(0), Stall(0.7))
        check_loads(server, remote_model, first_byte_seconds=5, stall_seconds=0.2, concurrency=1)
        assert len(server.requests) == 4


def test_a_connection_that_is_slow_but_steady_is_kept(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(Slow(1_000_000))
        check_loads(server, remote_model, stall_bytes=500_000, stall_seconds=1.2, within=8)
        assert len(server.requests) == 4


def test_a_deadline_bounds_what_is_slow(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number > 1, Slow(150_000))
        failure = check_fails(
            server,
            remote_model,
            ws.TimeoutError,
            "deadline",
            settings={"deadline": 1, "stall_bytes": 1000, "concurrency": 1},
            within=2.5,
        )
        assert failure.error.range is not None


@pytest.mark.parametrize(
    ("k", "actions"),
    [
        (1, [Status(503)]),
        (1, [Status(503, {"Retry-After": "1"})]),
        (3, [Status(503, {"Retry-After": "1"})]),
        (1, [Fin()]),
        (3, [Body(10), Fin()]),
        (1, [Stall(60)]),
        (3, [Stall(60)]),
        (3, [Body(1), Slow(1)]),
    ],
    ids=repr,
)
def test_a_deadline_bounds_what_is_tried_again(remote_model: Model, k: int, actions: list[Action]) -> None:
    # After Retry-After, the load that shows that all is well again waits for it, too.
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number >= k, *actions)
        numbers = {"deadline": 0.4, "max_attempts": 10_000, "connect_attempts": 10_000, "backoff_cap": 60}
        check_fails(server, remote_model, ws.TimeoutError, "deadline", settings={**numbers, "concurrency": 1}, within=2)


@contextlib.contextmanager
def unresponsive() -> Iterator[str]:
    """The origin of a server whose kernel drops what would open a connection: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind_to_new_port())
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(address)
        yield f"http://{address[0]}:{address[1]}"


def test_no_connection_in_time() -> None:
    with unresponsive() as origin:
        began = time.monotonic()
        with pytest.raises(ws.TimeoutError, match=origin.partition("//")[2]) as caught:
            load(f"{origin}/m.safetensors", connect_timeout=0.3)
        assert 0.5 < time.monotonic() - began < 2.5
        assert (caught.value.attempts, caught.value.status) == (QUICK["connect_attempts"], None)


def test_a_range_that_takes_long_is_asked_for_twice(tmp_path: Path) -> None:
    names = [f"/{i}.safetensors" for i in range(12)]
    tensors = {name: {name: raw("U8", (1_000_000,), i)} for i, name in enumerate(names)}
    shards = {name: Model.of(tmp_path, some) for name, some in tensors.items()}
    expected = {name: tensor for some in tensors.values() for name, tensor in some.items()}
    with ScriptedServer({name: model.data for name, model in shards.items()}) as server:
        late = len(names) + 11  # the last but one
        for actions in ([Stall(20)], [Body(300_000), Stall(20)]):
            server.heal()
            server.at(late, *actions)
            began = time.monotonic()
            numbers = {"hedge_seconds": 0.3, "first_byte_seconds": 20, "stall_seconds": 20}
            assert_same(load([server.url(name) for name in names], concurrency=2, **numbers), expected)
            assert time.monotonic() - began < 3
            slow, hedge = [r for r in server.requests if r.path == server.requests[late - 1].path and r.number >= late]
            assert hedge.connection != slow.connection
            assert hedge.headers["If-Match"] == server.object(slow.path).etag
            check_settled(server)


def test_without_a_version_nothing_is_asked_for_twice(tmp_path: Path) -> None:
    names = [f"/{i}.safetensors" for i in range(12)]
    tensors = {name: {name: raw("U8", (1_000_000,), i)} for i, name in enumerate(names)}
    objects = {name: Object(Model.of(tmp_path, some).data, etag="", last_modified="") for name, some in tensors.items()}
    with ScriptedServer(objects) as server:
        server.at(len(names) + 11, Stall(0.8))
        assert (
            len(load([server.url(name) for name in names], concurrency=2, hedge_seconds=0.3, first_byte_seconds=20))
            == 12
        )
        assert len(server.requests) == 2 * len(names)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("actions", [[Stall(60)], [Body(10), Stall(60)], [Status(503, {"Retry-After": "2"})]], ids=repr)
def test_ctrl_c_while_it_waits(remote_model: Model, actions: list[Action], k: int) -> None:
    program = """
        import signal, time
        import numpy
        import weightstream as ws
        from processes import core_threads, descriptors, wait_until

        before = descriptors()
        patient = {"backoff_cap": 600, "first_byte_seconds": 600, "stall_seconds": 600, "deadline": 6000}
        try:
            ws.load(sys.argv[1], framework="numpy", concurrency=1, storage_options={"http": patient})
        except KeyboardInterrupt:
            wait_until(lambda: core_threads() == [], 0.5)
            assert descriptors() == before
            print("interrupted")
    """
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number >= k, *actions)
        process = subprocess.Popen(
            command(program, server.url()), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        with process:
            wait_until(lambda: len(server.requests) >= k)
            time.sleep(0.3)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            said, errors = process.communicate(timeout=10)
            assert time.monotonic() - sent < 1.5  # the interpreter's own end included
        assert (said, errors, process.returncode) == ("interrupted\n", "", 0)


@pytest.mark.parametrize("k", [1, 3])
def test_ctrl_c_that_nobody_catches(remote_model: Model, k: int) -> None:
    program = """
        import numpy
        import weightstream as ws

        ws.load(sys.argv[1], framework="numpy", storage_options={"http": {"first_byte_seconds": 600}})
    """
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number >= k, Stall(60))
        process = subprocess.Popen(command(program, server.url()), env=environment(), stderr=subprocess.PIPE, text=True)
        with process:
            wait_until(lambda: len(server.requests) >= k)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=5)
        assert process.returncode == -signal.SIGINT
        assert errors.endswith("KeyboardInterrupt\n")


@pytest.mark.parametrize("actions", [[Stall(60)], [Body(10), Stall(60)], [Status(503, {"Retry-After": "2"})]], ids=repr)
def test_close_while_it_waits(remote_model: Model, actions: list[Action]) -> None:
    patient = {"backoff_cap": 600, "first_byte_seconds": 600, "stall_seconds": 600, "deadline": 6000}
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number > 1, *actions)
        stream = ws.stream(server.url(), framework="numpy", storage_options=options(**patient))
        closing = threading.Timer(0.3, stream.close)
        closing.start()
        began = time.monotonic()
        with pytest.raises(ws.ClosedError):
            next(stream)
        closing.join()
        assert time.monotonic() - began < 1.3
        check_settled(server)
        heal(server, remote_model)


def test_the_interpreter_ends_while_a_load_runs(remote_model: Model) -> None:
    program = """
        import numpy
        import weightstream as ws

        stream = ws.stream(sys.argv[1], framework="numpy", storage_options={"http": {"first_byte_seconds": 600}})
        print(len(stream))
    """
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number > 1, Stall(60))
        began = time.monotonic()
        done = subprocess.run(
            command(program, server.url()), env=environment(), capture_output=True, text=True, timeout=20
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{len(remote_model.tensors)}\n", "")
        assert time.monotonic() - began < 4
