"""Connections that break off: what came is kept, what is missing is asked for, and only so often."""

from __future__ import annotations

from itertools import pairwise

import pytest

import weightstream as ws
from checkpoints import blocks
from servers.actions import Body, Chunked, Fin, Rst, Status
from servers.loads import Model, check_fails, check_loads, every_request, ranges
from servers.messages import Request
from servers.scripted import Action, ScriptedServer

MIB = 2**20
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.mark.parametrize(
    "actions",
    [
        [Fin()],
        [Rst()],
        [Body(0), Fin()],
        [Body(0), Rst()],
        [Body(1), Fin()],
        [Body(50_000), Fin()],
        [Body(50_000), Rst()],
        [Chunked(count=0)],
        [Chunked(count=50_000)],
    ],
    ids=repr,
)
def test_each_request_breaks_off_once(remote_model: Model, actions: list[Action]) -> None:
    with ScriptedServer(remote_model.data) as server:
        loads = 0
        for _ in every_request(server, *actions):
            check_loads(server, remote_model)
            loads += 1
        assert loads > 4


@pytest.mark.parametrize("count", [1, 1000, 77_777])
@pytest.mark.parametrize("k", [1, 2])
def test_it_goes_on_at_the_byte_that_is_missing(remote_model: Model, k: int, count: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(k, Body(count), Fin())
        check_loads(server, remote_model, concurrency=1)
        broken, again = server.requests[k - 1 : k + 1]
        size = len(remote_model.data)
        (begin, end), resumed = broken.range_of(size) or (0, 0), again.range_of(size)
        assert resumed == (begin + count, end)
        assert again.headers["If-Match"] == server.object().etag
        assert again.connection != broken.connection


def test_nothing_is_asked_for_twice(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.always(Body(200_000), Fin())
        check_loads(server, remote_model, concurrency=1, max_attempts=20)
        opening = [(begin, MIB) for begin in range(0, MIB, 200_000)]
        asked = ranges(server)
        assert asked[: len(opening)] == opening
        begins = [begin for begin, _ in asked[len(opening) :]]
        assert begins == sorted(set(begins))
        assert all(after - before <= 200_000 for before, after in pairwise(begins))


def test_attempts_that_bring_much_do_not_count(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Model.of(tmp_path_factory.mktemp("m"), blocks(2, 9 * MIB))
    with ScriptedServer(model.data) as server:
        server.when(lambda request: request.number > 1, Body(MIB + 1), Fin())
        check_loads(server, model, max_attempts=2, within=15)
        assert len(server.requests) > 15


@pytest.mark.parametrize("actions", [[Body(1000), Fin()], [Chunked(count=1000)]], ids=repr)
def test_attempts_that_bring_little_are_capped(remote_model: Model, actions: list[Action]) -> None:
    size = len(remote_model.data)
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number > 1, *actions)
        failure = check_fails(
            server,
            remote_model,
            ws.TruncatedError,
            "ended",
            settings={"max_attempts": 3, "concurrency": 1},
            attempts=3,
            got=3000,
            status=206,
            request_id=4,
        )
        assert len(failure.requests) == 4
        begin, end = failure.error.range or (0, 0)
        assert failure.requests[1].range_of(size) == (begin, end)
        assert failure.error.expected == end - begin
        assert "3 attempts" in str(failure.error)


def test_a_server_that_never_answers_a_request(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (1, 2):
            server.when(lambda request, k=k: request.number >= k, Rst())  # type: ignore[misc]
            failure = check_fails(
                server,
                remote_model,
                ws.ServerError,
                f"{server.host}:{server.port}",
                settings={"max_attempts": 3, "concurrency": 1},
                attempts=3,
                status=None,
            )
            assert len(failure.requests) >= k + 2


def test_every_second_request_breaks_off(remote_model: Model) -> None:
    def second(request: Request) -> bool:
        return request.number % 2 == 0

    with ScriptedServer(remote_model.data) as server:
        server.when(second, Body(5000), Rst())
        check_loads(server, remote_model)
        server.heal()
        server.when(second, Status(503))
        check_loads(server, remote_model)


def test_a_break_at_the_very_end(remote_model: Model) -> None:
    # All bytes of the range came: nothing is missing, whatever became of the connection.
    with ScriptedServer(remote_model.data) as server:
        server.always(Body(), Fin())
        check_loads(server, remote_model)
        assert (
            len(server.requests) == len(set(ranges(server))) + 1
        )  # the first MiB is the header's, and then the tensors'
        server.heal()
        server.always(Body(), Rst())  # a reset may take bytes with it that were not fetched yet
        check_loads(server, remote_model, max_attempts=50)
