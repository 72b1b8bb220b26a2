"""Loads from a scripted server, with small numbers, and everything that has to hold whatever the server does.

check_loads and check_fails look at the promises each time: the bytes or the error (I1, I2), the time (I3), threads and
connections afterwards (I4), and a load of the healed server (I5).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, write_file
from processes import core_threads, wait_until
from servers.messages import Request
from servers.scripted import MODEL, Action, ScriptedServer

# Every wait as short as two busy cores allow. Nothing is asked for twice unless a test wants that.
QUICK = {
    "max_attempts": 4,
    "connect_timeout": 1.0,
    "connect_attempts": 2,
    "backoff": 0.01,
    "backoff_cap": 0.05,
    "stall_seconds": 0.5,
    "first_byte_seconds": 1.0,
    "deadline": 20.0,
    "hedge_seconds": 0,
}


@dataclass(frozen=True)
class Model:
    """A safetensors file, and the tensors in it."""

    data: bytes
    tensors: Mapping[str, Raw]

    @classmethod
    def of(cls, folder: Path, tensors: Mapping[str, Raw]) -> Model:
        return cls(write_file(folder / "model.safetensors", tensors).read_bytes(), tensors)


@dataclass(frozen=True)
class Failure:
    """A load that failed, and what the server had seen then."""

    error: ws.WeightstreamError
    requests: list[Request]
    connections: int


def options(**numbers: Any) -> dict[str, Any]:
    """storage_options with QUICK numbers and others."""
    return {"http": {**QUICK, **numbers}}


def load(location: Any, *, concurrency: int | None = None, **numbers: Any) -> dict[str, Any]:
    """Loads all tensors as numpy arrays."""
    return ws.load(location, framework="numpy", concurrency=concurrency, storage_options=options(**numbers))


def load_exactly(location: Any, model: Model, *, concurrency: int | None = None, **numbers: Any) -> None:
    """Streams; whatever is handed out is exact, also before an error."""
    with ws.stream(location, framework="numpy", concurrency=concurrency, storage_options=options(**numbers)) as stream:
        for name, tensor in stream:
            assert tensor.tobytes() == model.tensors[name].data, name


def check_loads(server: ScriptedServer, model: Model, *, within: float = 5.0, **settings: Any) -> None:
    """The model loads, exactly and in time, whatever the script says."""
    began = time.monotonic()
    assert_same(load(server.url(), **settings), model.tensors)
    assert time.monotonic() - began < within
    check_settled(server)


def check_fails(
    server: ScriptedServer,
    model: Model,
    error: type[ws.WeightstreamError],
    match: str | None = None,
    *,
    within: float = 5.0,
    url: str | None = None,
    settings: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Failure:
    """Loading fails with exactly this error, in time; the server healed, it works. `fields` are of the error.

    `url`, if given, is loaded instead of the server's own. request_id=3: that of the third answer.
    """
    url = url or server.url()
    began = time.monotonic()
    with pytest.raises(error, match=match) as caught:
        load_exactly(url, model, **(settings or {}))
    assert time.monotonic() - began < within
    check_settled(server)
    failure = Failure(caught.value, list(server.requests), server.connections)
    got = caught.value
    assert type(got) is error
    assert got.source == url.partition("?")[0]
    assert str(got).startswith(f"{got.source}: ")
    if got.range is not None:
        assert 0 <= got.range[0] < got.range[1] <= max(len(model.data), 2**20)
        assert f"bytes {got.range[0]} to {got.range[1]}" in str(got)
    if "request_id" in fields:
        fields["request_id"] = server.request_id(fields["request_id"])
    assert {name: getattr(got, name) for name in fields} == fields
    for name in ("status", "service_code", "request_id"):
        value = getattr(got, name)
        assert value is None or str(value) in str(got)
    heal(server, model)
    return failure


def heal(server: ScriptedServer, model: Model) -> None:
    """The server does everything right again, and a load shows it."""
    server.heal()
    server.replace(model.data)
    check_loads(server, model)
    server.heal()


def check_settled(server: ScriptedServer) -> None:
    """No thread of the core, and no connection, is left. (One that was joined is in /proc for a moment more.)"""
    wait_until(lambda: core_threads() == [], 1)
    wait_until(lambda: server.open_connections == 0, 5)


def every_request(server: ScriptedServer, *actions: Action, most: int = 40) -> Iterator[int]:
    """Yields k = 1, 2, ...; request k meets the actions in the load that follows. Ends after a load without a k-th."""
    for k in range(1, most):
        server.heal()
        server.at(k, *actions)
        yield k
        if len(server.requests) < k:
            return
    pytest.fail(f"a load takes {most} requests")


def ranges(server: ScriptedServer, path: str = MODEL) -> list[tuple[int, int]]:
    """The ranges that were asked for, in the order of the requests."""
    size = len(server.object(path).data)
    return [request.range_of(size) or (0, size) for request in server.requests if request.path == path]
