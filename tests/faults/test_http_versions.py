"""Objects that are replaced while they are read: never a byte of two versions, and no retry that could mix them."""

from __future__ import annotations

from typing import Any

import pytest

import weightstream as ws
from checkpoints import raw
from servers.actions import Body, Fin, Head, Rst, Serve, Status
from servers.loads import Model, check_fails, check_loads, check_settled, heal, options, ranges
from servers.messages import Object, Request, Response
from servers.scripted import Action, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")

LATER = "Tue, 03 Nov 2026 11:11:11 GMT"


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory, remote_model: Model) -> Model:
    """Of the same size as remote_model, header and all; every tensor has other bytes."""
    tensors = {
        name: raw(tensor.dtype, tensor.shape, 1000 + i) for i, (name, tensor) in enumerate(remote_model.tensors.items())
    }
    model = Model.of(tmp_path_factory.mktemp("other"), tensors)
    assert len(model.data) == len(remote_model.data)
    return model


class Replace:
    """From this request on, the server has another object. An honest one: it looks at If-Match."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def play(self, exchange: Any) -> None:
        exchange.server.replace(self._data)
        request_id = exchange.response.headers["x-amz-request-id"]
        exchange.response = exchange.server.object().answer(exchange.request)
        exchange.response.headers.set("x-amz-request-id", request_id)


def test_replaced_between_two_requests(remote_model: Model, other_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (2, 3):
            server.at(k, Replace(other_model.data))
            failure = check_fails(
                server, remote_model, ws.SourceChangedError, "replaced", settings={"concurrency": 1},
                status=412, request_id=k, service_code="PreconditionFailed",
            )  # fmt: skip
            assert len(failure.requests) == k  # not tried again
            assert failure.requests[-1].headers["If-Match"] == Object(remote_model.data).etag


def test_replaced_in_the_middle_of_an_answer(remote_model: Model, other_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in (1, 2, 3):
            server.at(k, Body(30_000), Rst())
            server.at(k + 1, Replace(other_model.data))
            failure = check_fails(server, remote_model, ws.SourceChangedError, settings={"concurrency": 1})
            assert len(failure.requests) == k + 1


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(
    "lines",
    [
        {"ETag": '"another"'},
        {"ETag": 'W/"another"'},
        {"ETag": '"\xfc\xff\x1b[31m"'},
        {"x-amz-version-id": "another"},
        {"ETag": None, "Last-Modified": LATER},
    ],
    ids=repr,
)
def test_a_server_that_ignores_if_match(remote_model: Model, lines: dict[str, str], k: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.when(lambda request: request.number >= k, Head(lines))
        failure = check_fails(server, remote_model, ws.SourceChangedError, settings={"concurrency": 1}, status=206)
        assert len(failure.requests) == k
        assert "\x1b" not in str(failure.error)


@pytest.mark.parametrize("status", [412, 416])
def test_statuses_that_say_so(remote_model: Model, status: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(2, Status(status, body="<Error><Code>TheCode</Code></Error>"))
        failure = check_fails(
            server, remote_model, ws.SourceChangedError, settings={"concurrency": 1},
            status=status, request_id=2, service_code="TheCode",
        )  # fmt: skip
        assert len(failure.requests) == 2


def test_shortened(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        short = Object(remote_model.data[:-100_000])
        server.at(2, Serve(of=short))
        failure = check_fails(server, remote_model, ws.SourceChangedError, settings={"concurrency": 1})
        assert (failure.error.expected, failure.error.got) == (len(remote_model.data), len(short.data))


class Site:
    """A server whose objects have such and such validators."""

    def __init__(self, model: Model, **validators: str) -> None:
        self.held = Object(model.data, **validators)
        self.version_id = ""

    def __call__(self, request: Request) -> Response:
        response = self.held.answer(request)
        if self.version_id:
            response.headers.set("x-amz-version-id", self.version_id)
        return response


@pytest.mark.parametrize("kind", ["last-modified", "version", "weak"])
def test_other_validators_than_an_etag_are_good_for_resuming(remote_model: Model, kind: str) -> None:
    etag = 'W/"1"' if kind == "weak" else ""
    site = Site(remote_model, etag=etag, last_modified=LATER if kind != "version" else "")
    site.version_id = "v1" if kind == "version" else ""
    size = len(remote_model.data)
    with ScriptedServer(site) as server:
        server.at({1, 3}, Body(40_000), Fin())
        check_loads(server, remote_model, concurrency=1)
        for k in (1, 3):
            begin, end = server.requests[k - 1].range_of(size) or (0, 0)
            assert server.requests[k].range_of(size) == (begin + 40_000, end)
        assert all("If-Match" not in request.headers for request in server.requests)


@pytest.mark.parametrize("k", [1, 2])
def test_without_validators_nothing_is_resumed(remote_model: Model, k: int) -> None:
    size = len(remote_model.data)
    with ScriptedServer(Site(remote_model, etag="", last_modified="")) as server:
        server.at(k, Body(40_000), Fin())
        check_loads(server, remote_model, concurrency=1)
        assert server.requests[k].range_of(size) == server.requests[k - 1].range_of(size)
        assert all("If-Match" not in request.headers for request in server.requests)


def test_replaced_without_an_etag(remote_model: Model, other_model: Model) -> None:
    for k in (2, 3):
        site = Site(remote_model, etag="")
        with ScriptedServer(site) as server:
            server.at(k - 1, Body(40_000), Fin())

            def swap(request: Request, site: Site = site, k: int = k) -> bool:
                if request.number == k:
                    site.held = Object(other_model.data, etag="", last_modified=LATER)
                return False

            server.when(swap)
            with pytest.raises(ws.SourceChangedError, match=LATER) as caught:
                ws.load(server.url(), framework="numpy", concurrency=1, storage_options=options())
            assert caught.value.status == 206
            assert len(server.requests) == k
            check_settled(server)


@pytest.mark.parametrize("order", ["arrival", "file"])
def test_replaced_while_it_is_streamed(remote_model: Model, other_model: Model, order: str) -> None:
    # What is handed out before the error is of the old version, all of it.
    with ScriptedServer(remote_model.data) as server:
        handed = {}
        stream = ws.stream(
            server.url(), framework="numpy", order=order, memory_limit="1MiB", storage_options=options(), concurrency=1
        )

        def consume() -> None:
            for name, tensor in stream:
                server.replace(other_model.data)
                handed[name] = tensor

        with stream, pytest.raises(ws.SourceChangedError):
            consume()
        assert {name: tensor.tobytes() for name, tensor in handed.items()} == {
            name: remote_model.tensors[name].data for name in handed
        }
        assert 1 <= len(handed) < len(remote_model.tensors)
        check_settled(server)
        heal(server, remote_model)


@pytest.mark.parametrize("actions", [[Status(503)], [Fin()], [Body(10), Rst()]], ids=repr)
def test_every_request_after_the_first_names_the_version(remote_model: Model, actions: list[Action]) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({2, 4}, *actions)
        check_loads(server, remote_model)
        assert "If-Match" not in server.requests[0].headers
        assert {request.headers["If-Match"] for request in server.requests[1:]} == {server.object().etag}
        assert len(ranges(server)) > 4
