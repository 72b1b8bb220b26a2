"""Servers that say no: what passes is tried again, politely; what does not is an error at once, in their words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest

import weightstream as ws
from checkpoints import assert_same, raw
from servers.actions import Body, Fin, Head, Status
from servers.loads import Model, check_fails, check_loads, check_settled, every_request, load, options
from servers.messages import Request
from servers.scripted import MODEL, Exchange, ScriptedServer

pytestmark = pytest.mark.usefixtures("no_leaks")

XML = "<?xml version='1.0'?><Error><Code>{}</Code><Message>secret words of the server</Message></Error>"
SLOW_DOWN = XML.format("SlowDown")


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_what_passes_is_tried_again(remote_model: Model, status: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        loads = 0
        for _ in every_request(server, Status(status, body="try later")):
            check_loads(server, remote_model)
            loads += 1
        assert loads > 4


def check_refused(
    model: Model, answer: Status, k: int, error: type[ws.WeightstreamError], code: str | None, *, attempts: int
) -> None:
    """From the k-th request on there is only this answer: after so many attempts it is an error in our words."""
    with ScriptedServer(model.data) as server:
        server.when(lambda request: request.number >= k, answer)
        last = k + attempts - 1
        failure = check_fails(
            server,
            model,
            error,
            settings={"concurrency": 1, "max_attempts": 3},
            status=answer.status,
            service_code=code,
            request_id=last,
            attempts=attempts,
        )
        assert len(failure.requests) == last
        text = str(failure.error)
        assert f"HTTP status {answer.status}" in text
        assert code is None or text.count(code) == 1
        assert "secret words" not in text
        assert "xxxx" not in text


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (408, "", ws.ServerError, None),
        (429, "", ws.ThrottledError, None),
        (429, XML.format("TooManyRequests"), ws.ThrottledError, "TooManyRequests"),
        (500, XML.format("InternalError"), ws.ServerError, "InternalError"),
        (502, "<html><body>Bad Gateway</body></html>", ws.ServerError, None),
        (503, SLOW_DOWN, ws.ThrottledError, "SlowDown"),
        (503, XML.format("ServerBusy"), ws.ThrottledError, "ServerBusy"),
        (503, XML.format("ServiceUnavailable"), ws.ServerError, "ServiceUnavailable"),
        (504, "x" * 3_000_000, ws.ServerError, None),
    ],
)
@pytest.mark.parametrize("k", [1, 3])
def test_what_does_not_pass(
    remote_model: Model, status: int, body: str, error: type[ws.WeightstreamError], code: str | None, k: int
) -> None:
    check_refused(remote_model, Status(status, body=body), k, error, code, attempts=3)


@pytest.mark.parametrize(
    ("status", "body", "error", "code"),
    [
        (400, XML.format("InvalidArgument"), ws.ServerError, "InvalidArgument"),
        (401, "", ws.AuthError, None),
        (403, XML.format("AccessDenied"), ws.AuthError, "AccessDenied"),
        (403, XML.format("SignatureDoesNotMatch"), ws.AuthError, "SignatureDoesNotMatch"),
        (403, '{"error": {"code": 403, "errors": [{"reason": "forbidden"}]}}', ws.AuthError, "forbidden"),
        (404, XML.format("NoSuchKey"), ws.NotFoundError, "NoSuchKey"),
        (404, "<html>" + "x" * 3_000_000, ws.NotFoundError, None),
        (410, "", ws.NotFoundError, None),
        (405, "", ws.ServerError, None),
        (451, "", ws.ServerError, None),
        (501, "", ws.ServerError, None),
    ],
)
@pytest.mark.parametrize("k", [1, 3])
def test_what_is_final_is_not_tried_again(
    remote_model: Model, status: int, body: str, error: type[ws.WeightstreamError], code: str | None, k: int
) -> None:
    check_refused(remote_model, Status(status, body=body), k, error, code, attempts=1)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-ms-error-code": "BlobNotFound", "x-ms-request-id": "the-id"}, ""),
        ({"X-Error-Code": "BlobNotFound", "X-Request-Id": "the-id"}, "{}"),
        ({"x-guploader-uploadid": "the-id"}, '{"error": {"errors": [{"reason": "BlobNotFound"}]}}'),
        ({"x-amz-request-id": "the-id"}, XML.format("BlobNotFound")),
    ],
)
def test_each_service_has_its_own_words(remote_model: Model, headers: dict[str, str], body: str) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Status(404, {"x-amz-request-id": "", **headers}, body))
        failure = check_fails(server, remote_model, ws.NotFoundError, service_code="BlobNotFound")
        assert failure.error.request_id == "the-id"


class Endless:
    """A body that is as long as the client listens."""

    def __init__(self, status: int) -> None:
        self._status = status
        self.sent = 0

    def play(self, exchange: Exchange) -> None:
        Status(self._status).play(exchange)
        Head({"Content-Length": str(10**15), "Location": MODEL if self._status == 302 else None}).play(exchange)
        exchange.send_head()
        while self.sent < 10**9:
            exchange.send(bytes(65536))
            self.sent += 65536


@pytest.mark.parametrize(("status", "error"), [(404, ws.NotFoundError), (503, ws.ServerError), (302, ws.ProtocolError)])
def test_a_refusal_is_not_read_to_its_end(remote_model: Model, status: int, error: type[ws.WeightstreamError]) -> None:
    endless = Endless(status)
    with ScriptedServer(remote_model.data) as server:
        server.at(range(1, 10), endless)
        check_fails(server, remote_model, error, status=status, settings={"max_attempts": 2})
        assert endless.sent < 50 << 20  # what the kernel's buffers hold, mostly


def test_codes_and_ids_that_are_none(remote_model: Model) -> None:
    code = "<script>alert(1)</script>" + "x" * 1000
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Status(403, {"x-amz-request-id": "\x1b[31m" + "y" * 5000}, XML.format(code)))
        failure = check_fails(server, remote_model, ws.AuthError, service_code=None)
        assert "\x1b" not in str(failure.error)
        assert len(str(failure.error)) < 500


@pytest.mark.parametrize("region", ["", "eu-west-3"])
def test_a_redirect_of_s3_to_nowhere_is_about_the_region(remote_model: Model, region: str) -> None:
    lines = {"x-amz-bucket-region": region} if region else {}
    with ScriptedServer(remote_model.data) as server:
        server.at(1, Status(301, lines, XML.format("PermanentRedirect")))
        failure = check_fails(
            server, remote_model, ws.ConfigError, "wrong region", status=301, service_code="PermanentRedirect"
        )
        assert region in str(failure.error)
        assert len(failure.requests) == 1


def waits(requests: list[Request]) -> list[float]:
    """Seconds between the requests."""
    return [after.time - before.time for before, after in pairwise(requests)]


def test_waits_double_up_to_a_cap_and_differ(remote_model: Model) -> None:
    seen = []
    with ScriptedServer(remote_model.data) as server:
        for _ in range(2):
            server.at(range(1, 7), Status(500))
            check_loads(server, remote_model, max_attempts=7, backoff=0.05, backoff_cap=0.2)
            seen.append(waits(server.requests[:7]))
            server.heal()
    for some in seen:
        for wait, full in zip(some, [0.05, 0.1, 0.2, 0.2, 0.2, 0.2], strict=True):
            assert 0.4 * full < wait < full + 0.2
    assert len({round(wait, 4) for some in seen for wait in some}) > 8  # jitter


@pytest.mark.parametrize(("status", "k"), [(429, 3), (503, 1)])
def test_retry_after_is_honoured(remote_model: Model, status: int, k: int) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(k, Status(status, {"Retry-After": "1"}))
        check_loads(server, remote_model, backoff_cap=10, concurrency=1)
        assert 0.9 < waits(server.requests)[k - 1] < 1.6


def test_retry_after_may_be_a_date(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        later = datetime.now(timezone.utc) + timedelta(seconds=2)  # its fraction is lost
        server.at(2, Status(503, {"Retry-After": format_datetime(later, usegmt=True)}))
        check_loads(server, remote_model, backoff_cap=10, concurrency=1)
        assert 0.9 < waits(server.requests)[1] < 2.6


@pytest.mark.parametrize("value", ["100000", "99999999999999999999", "-5", "soon", "Fri, 31 Dec 2999 23:59:59 GMT"])
def test_retry_after_has_a_cap(remote_model: Model, value: str) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({1, 3}, Status(503, {"Retry-After": value}))
        check_loads(server, remote_model, backoff_cap=0.2, within=2)


def test_a_server_that_asks_to_slow_down_is_left_alone(tmp_path: Path) -> None:
    # By all that is read from it, not only by the read that was refused.
    tensors = {
        f"/{i}.safetensors": {f"{i}.{j}": raw("U8", (1_400_000,), 10 * i + j) for j in range(2)} for i in range(6)
    }
    shards = {path: Model.of(tmp_path, some) for path, some in tensors.items()}
    with ScriptedServer({path: model.data for path, model in shards.items()}) as server:
        refused = 11
        server.at(refused, Status(503, {"Retry-After": "1"}, SLOW_DOWN))
        got = load([server.url(path) for path in shards], concurrency=3, backoff_cap=5)
        assert_same(got, {name: tensor for model in shards.values() for name, tensor in model.tensors.items()})
        since = [request.time - server.requests[refused - 1].time for request in server.requests]
        assert since[-1] > 0.9
        assert [seconds for seconds in since if 0.1 < seconds < 0.9] == []
        check_settled(server)


def test_reasons_to_try_again_may_alternate(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at(2, Status(503))
        server.at(3, Body(10), Fin())
        server.at(4, Fin())
        check_loads(server, remote_model, concurrency=1)
        server.heal()
        server.at(2, Status(503))
        server.at(3, Body(10), Fin())
        server.at(4, Status(500, body=XML.format("InternalError")))
        check_fails(
            server,
            remote_model,
            ws.ServerError,
            settings={"concurrency": 1, "max_attempts": 3},
            attempts=3,
            service_code="InternalError",
            status=500,
        )


def test_retries_are_counted(remote_model: Model) -> None:
    with ScriptedServer(remote_model.data) as server:
        server.at({2, 3, 5}, Status(500))
        with ws.stream(server.url(), framework="numpy", concurrency=1, storage_options=options()) as stream:
            assert len(dict(stream)) == len(remote_model.tensors)
            assert stream.stats.retries == 3
            assert stream.stats.readers == {"http": stream.stats.bytes_read}
            assert stream.stats.bytes_read == len(remote_model.data)
