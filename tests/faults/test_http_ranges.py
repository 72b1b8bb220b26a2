"""Answers that are not what was asked for: never written, never handed out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest

import weightstream as ws
from checkpoints import blocks
from servers.actions import Body, Chunked, Extra, Fin, Finish, Head, Longer, Raw, Serve, Stall, Status, Whole
from servers.loads import Model, check_fails, check_loads, check_settled, every_request, load, load_exactly
from servers.messages import Object
from servers.scripted import Action, Exchange, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")


class Wrong:
    """An answer that is made from the right range."""

    def __init__(
        self, name: str, make: Callable[[int, int, int], list[Action]], first: int = 1, *, begins: bool = True
    ) -> None:
        self.name = name
        self.first = first  # the first request that can tell that it is wrong
        self.begins = begins  # as an answer does; if not, it may be a word that follows the answer before
        self._make = make

    def __repr__(self) -> str:
        return self.name

    def play(self, exchange: Exchange) -> None:
        size = len(exchange.server.object().data)
        begin, end = exchange.request.range_of(size) or (0, size)
        for action in self._make(begin, end, size):
            action.play(exchange)


def says(content_range: str) -> list[Action]:
    return [Head({"Content-Range": content_range})]


WRONG = [
    Wrong("no Content-Range", lambda b, e, n: [Head({"Content-Range": None})]),
    Wrong("Content-Range that is no range", lambda b, e, n: says("bytes")),
    Wrong("Content-Range in other units", lambda b, e, n: says(f"items {b}-{e - 1}/{n}")),
    Wrong("Content-Range without bounds", lambda b, e, n: says(f"bytes */{n}")),
    Wrong("Content-Range past 2^64", lambda b, e, n: says(f"bytes {b}-{2**64 + e - 1}/{2**64 + n}")),
    Wrong("negative Content-Range", lambda b, e, n: says(f"bytes -{b}-{e - 1}/{n}")),
    Wrong("Content-Range backwards", lambda b, e, n: says(f"bytes {e}-{b}/{n}")),
    Wrong("Content-Range past its own total", lambda b, e, n: says(f"bytes {b}-{e - 1}/{e - 1}")),
    Wrong("another begin", lambda b, e, n: says(f"bytes {b + 1}-{e}/{n}")),
    Wrong("bytes from one further on", lambda b, e, n: [Serve(b + 1, e)]),
    Wrong("one byte less", lambda b, e, n: [Serve(b, e - 1)]),
    Wrong("half of it", lambda b, e, n: [Serve(b, (b + e) // 2)]),
    Wrong("bytes from the begin", lambda b, e, n: [Serve(0, 100)]),
    Wrong("lengths that contradict", lambda b, e, n: [Serve(b, e - 1, says=f"bytes {b}-{e - 1}/{n}")]),
    Wrong("two ranges", lambda b, e, n: [Head({"Content-Range": None, "Content-Type": "multipart/byteranges"})]),
    Wrong("status 200 for a part", lambda b, e, n: [Head({"Content-Range": None}, status=200)], first=3),
    Wrong("the whole object", lambda b, e, n: [Whole()]),
    Wrong("the whole object, its length unsaid", lambda b, e, n: [Whole(), Chunked()]),
    Wrong("no content", lambda b, e, n: [Status(204)]),
    Wrong("not modified", lambda b, e, n: [Status(304)]),
    Wrong("gzip", lambda b, e, n: [Head({"Content-Encoding": "gzip"})]),
    Wrong("some encoding", lambda b, e, n: [Head({"Content-Encoding": "zstd, gzip"})]),
    Wrong("more than was asked for", lambda b, e, n: [Longer(b"more")]),
    Wrong("more than was asked for, in chunks", lambda b, e, n: [Longer(b"more"), Chunked()]),
    Wrong("much more than was asked for, in chunks", lambda b, e, n: [Longer(bytes(100_000)), Chunked(50_000)]),
    Wrong("two lengths", lambda b, e, n: [Head(also=(("Content-Length", "7"),))]),
    Wrong("a length that is no number", lambda b, e, n: [Head({"Content-Length": "many"})]),
    Wrong("nonsense", lambda b, e, n: [Raw(b"\0\1\2 nonsense\r\n\r\n"), Fin()], begins=False),
    Wrong("a mail server", lambda b, e, n: [Raw(b"220 mail.example.org ESMTP\r\n"), Fin()], begins=False),
    Wrong("a header line of 1 MB", lambda b, e, n: [Head({"X-Padding": "x" * 1_000_000})]),
    Wrong("10,000 header lines", lambda b, e, n: [Head(also=tuple((f"X-{i}", "x" * 100) for i in range(10_000)))]),
    Wrong(
        "header lines without an end", lambda b, e, n: [Raw(b"HTTP/1.1 206 OK\r\n" + b"X: y\r\n" * 200_000), Stall(30)]
    ),
    Wrong("heads without an end", lambda b, e, n: [Raw(b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000), Stall(30)]),
]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_another_answer_than_what_was_asked_for(remote_model: Model, wrong: Wrong) -> None:
    with ScriptedServer(remote_model.data) as server:
        for k in range(wrong.first, 4):
            # On a connection that was used before, it is asked for once more on one that was not.
            again = 0 if wrong.begins or k == 1 else 1
            server.at(range(k, k + again + 1), wrong)
            failure = check_fails(server, remote_model, ws.ProtocolError, settings={"concurrency": 1})
            assert len(failure.requests) == k + again  # not tried again
            assert failure.error.attempts == 1
            assert len(str(failure.error)) < 1000


def test_what_was_expected_and_what_came(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(2, Wrong("half", lambda b, e, n: [Serve(b, b + 1000)]))
        failure = check_fails(
            server, remote_model, ws.ProtocolError, settings={"concurrency": 1}, got=1000, status=206, request_id=2
        )
        begin, end = failure.error.range or (0, 0)
        assert failure.error.expected == end - begin
        assert (begin, end) == failure.requests[1].range_of(len(remote_model.data))


def test_a_total_that_changes(remote_model: Model) -> None:
    size = len(remote_model.data)
    with ScriptedServer(remote_model.data) as server:
        for total in (size + 1, 10 * size):
            server.at(2, Wrong("total", lambda b, e, n, total=total: says(f"bytes {b}-{e - 1}/{total}")))
            failure = check_fails(server, remote_model, ws.SourceChangedError, settings={"concurrency": 1})
            assert (failure.error.expected, failure.error.got) == (size, total)
            assert len(failure.requests) == 2


@pytest.mark.parametrize("total", [2**40, 2**63 - 1, 2**63, 2**64 - 1])
def test_a_total_that_is_absurd(remote_model: Model, total: int) -> None:
    # It is compared with the header before anything is made that large.
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Wrong("total", lambda b, e, n: says(f"bytes {b}-{e - 1}/{total}")))
        with pytest.raises((ws.FormatError, ws.ProtocolError)) as caught:
            load(server.url())
        assert caught.value.source == server.url()
        assert len(server.requests) == 1
        check_settled(server)


@pytest.mark.parametrize("length", [2**63, 2**64 + 5, 10**30])
def test_a_length_that_is_absurd(remote_model: Model, length: int) -> None:
    # Content-Range says what comes. Whoever cannot count that far may still take it.
    with ScriptedServer(remote_model.data) as server:
        server.always(Head({"Content-Length": str(length)}), Body(), Fin())
        with contextlib.suppress(ws.ProtocolError):
            load_exactly(server.url(), remote_model)
        check_settled(server)


def test_a_total_that_is_not_said(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Wrong("no total", lambda b, e, n: says(f"bytes {b}-{e - 1}/*")))
        check_fails(server, remote_model, ws.ProtocolError, status=206, request_id=1)
        server.at(2, Wrong("no total", lambda b, e, n: says(f"bytes {b}-{e - 1}/*")))  # nothing to compare
        check_loads(server, remote_model)


def test_a_whole_object_that_is_small_may_come_with_200(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Model.of(tmp_path_factory.mktemp("m"), blocks(3, 100_000))
    with ScriptedServer(model.data) as server:
        server.always(Whole())
        check_loads(server, model)


def test_a_whole_object_that_breaks_off(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = Model.of(tmp_path_factory.mktemp("m"), blocks(3, 100_000))
    with ScriptedServer(model.data) as server:
        server.always(Whole(), Body(1000), Fin())  # the rest cannot be had from such a server
        check_fails(server, model, ws.ProtocolError, "whole object", attempts=2, status=200)


def test_bytes_behind_an_answer_do_not_count(remote_model: Model) -> None:
    # They belong to no answer that was asked for. Those that come late are the next one's: a wrong one, then.
    with ScriptedServer(remote_model.data) as server:
        for _ in every_request(server, Extra(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")):
            with contextlib.suppress(ws.ProtocolError, ws.SourceChangedError):
                load_exactly(server.url(), remote_model)
            check_settled(server)


@pytest.mark.parametrize(
    "interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n"]
)
def test_interim_answers_are_passed_over(remote_model: Model, interim: bytes) -> None:
    class Interim:
        def play(self, exchange: Exchange) -> None:
            exchange.send(interim)

    with ScriptedServer(remote_model.data) as server:
        server.always(Interim())
        check_loads(server, remote_model)


def test_chunks_and_other_lawful_answers(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({1, 2}, Chunked(size=7777))
        server.always(Head({"Content-Encoding": "identity", "Connection": "close"}), Finish())
        check_loads(server, remote_model)


def test_identity_is_asked_for(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        check_loads(server, remote_model)
        for request in server.requests:
            assert request.headers["Accept-Encoding"] == "identity"
            assert (request.method, request.body) == ("GET", b"")
            assert request.headers["Host"] == f"{server.host}:{server.port}"
            assert request.headers["User-Agent"]
            assert "Authorization" not in request.headers


@pytest.mark.parametrize("actions", [[], [Whole()], [Status(416)]], ids=repr)
def test_an_empty_object(remote_model: Model, actions: list[Action]) -> None:
    with ScriptedServer({"/empty.safetensors": b"", "/model.safetensors": remote_model.data}) as server:
        server.always(*actions)
        expected = ws.SourceChangedError if actions == [Status(416)] else ws.FormatError
        with pytest.raises((expected, ws.ProtocolError) if actions else expected):
            load(server.url("/empty.safetensors"))


def test_an_object_without_weights(remote_model: Model) -> None:
    page = b"<!DOCTYPE html><html><body>Sign in</body></html>" * 10
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 12345\n"
    objects = {"/page.safetensors": page, "/pointer.safetensors": pointer, "/cut.safetensors": remote_model.data[:-1]}
    with ScriptedServer(objects) as server:
        for path, said in (
            ("/page.safetensors", "HTML"),
            ("/pointer.safetensors", "LFS"),
            ("/cut.safetensors", "1 byte"),
        ):
            with pytest.raises(ws.FormatError, match=said) as caught:
                load(server.url(path))
            assert caught.value.source == server.url(path)
        server.objects["/m.safetensors"] = Object(remote_model.data)
        assert len(load(server.url("/m.safetensors"))) == len(remote_model.tensors)
