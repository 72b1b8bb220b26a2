"""Addresses and credentials that end while they are read: renewed once for all who wait, and not for ever."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import assert_same, blocks, write_file
from processes import core_threads, wait_until
from servers.actions import Stall, Status
from servers.hub import Hub
from servers.loads import QUICK, check_settled
from servers.messages import Request

REPO = "org/llm"
FILE = f"hf://{REPO}/model.safetensors"
TENSORS = blocks(12, 1_000_000)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub reads its environment once, when it is imported, and keeps its connections."""
    import huggingface_hub
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield
    close = getattr(huggingface_hub, "close_session", None) or huggingface_hub.utils.reset_sessions
    close()


@pytest.fixture
def model_hub(hub: Hub, tmp_path: Path) -> Hub:
    hub.commit(REPO, {"model.safetensors": write_file(tmp_path / "model.safetensors", TENSORS).read_bytes()})
    return hub


def settings(hub: Hub, **numbers: Any) -> dict[str, Any]:
    return {"framework": "numpy", "storage_options": {"endpoint": hub.api.origin, "http": {**QUICK, **numbers}}}


def addresses_asked_for(hub: Hub) -> int:
    return len([request for request in hub.api.requests if "/resolve/" in request.path])


class Revoke:
    """From one request on, the CDN refuses the addresses that it was asked for until then; and the `more` next ones."""

    def __init__(self, hub: Hub, at: int, status: int = 403, more: int = 0) -> None:
        self.valid_from = 1 << 60
        self._hub = hub
        self._at = at
        hub.cdn.when(self._is_refused, Status(status, body="<Error><Code>ExpiredToken</Code></Error>"))
        self.refused: set[str] = set()
        self._more = more

    def _is_refused(self, request: Request) -> bool:
        if request.number == self._at:
            self.refused = {request.target}
            self._hub.signed_for += 100  # the next address is another one
        elif request.number > self._at and request.target not in self.refused and self._more > 0:
            self._more -= 1
            self.refused.add(request.target)
            self._hub.signed_for += 100
        return request.target in self.refused


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("at", [1, 2, 7])
def test_an_address_that_ends_is_renewed_once(model_hub: Hub, at: int, status: int) -> None:
    revoked = Revoke(model_hub, at, status)
    assert_same(ws.load(FILE, concurrency=8, **settings(model_hub)), TENSORS)
    assert len(revoked.refused) == 1
    assert addresses_asked_for(model_hub) == 2  # however many reads were refused
    assert all("Authorization" not in request.headers for request in model_hub.cdn.requests)
    wait_until(lambda: core_threads() == [], 1)
    check_settled(model_hub.cdn)


def test_all_who_wait_wait_for_the_same_renewal(model_hub: Hub) -> None:
    Revoke(model_hub, 2)
    first: list[Request] = []

    def is_second(request: Request) -> bool:
        first.append(request)
        return "/resolve/" in request.path and len([r for r in first if "/resolve/" in r.path]) == 2

    model_hub.api.when(is_second, Stall(0.5))
    assert_same(ws.load(FILE, concurrency=8, **settings(model_hub)), TENSORS)
    assert addresses_asked_for(model_hub) == 2
    refused = [request for request in model_hub.cdn.requests if request.target == model_hub.cdn.requests[0].target]
    assert len(refused) > 2  # several had begun with the old one


def test_a_second_refusal_is_final(model_hub: Hub) -> None:
    Revoke(model_hub, 2, more=1)
    with pytest.raises(ws.AuthError, match="ExpiredToken") as caught:
        ws.load(FILE, concurrency=1, **settings(model_hub))
    assert (caught.value.source, caught.value.status) == (FILE, 403)
    assert addresses_asked_for(model_hub) == 2
    assert "Signature" not in str(caught.value)
    check_settled(model_hub.cdn)


def test_a_renewal_that_is_refused(model_hub: Hub) -> None:
    revoked = Revoke(model_hub, 2)
    model_hub.api.when(lambda request: bool(revoked.refused), Status(403, {"X-Error-Code": "GatedRepo"}))
    with pytest.raises(ws.AuthError, match="gated") as caught:
        ws.load(FILE, **settings(model_hub))
    assert caught.value.source == FILE
    wait_until(lambda: core_threads() == [], 1)


def test_an_address_is_renewed_before_it_ends(model_hub: Hub) -> None:
    model_hub.signed_for = 20  # less than what a load may need
    with ws.open(FILE, **settings(model_hub)) as checkpoint:
        model_hub.signed_for = 3600
        assert_same(checkpoint.load(), TENSORS)
    assert addresses_asked_for(model_hub) in (2, 3)  # opening asks for a better one, too
    model_hub.api.heal()
    with ws.open(FILE, **settings(model_hub)) as checkpoint:
        assert_same(checkpoint.load(), TENSORS)
    assert addresses_asked_for(model_hub) == 1


def test_an_address_that_has_ended_is_not_used(model_hub: Hub) -> None:
    model_hub.signed_for = 1
    with ws.open(FILE, **settings(model_hub)) as checkpoint:
        model_hub.signed_for = 3600
        ended = time.time() + 1.5  # of the first address, and of any that opening asked for
        wait_until(lambda: time.time() > ended)
        asked = len(model_hub.cdn.requests)
        assert_same(checkpoint.load(), TENSORS)
        late = model_hub.cdn.requests[asked:]
        assert all(float(request.query["Expires"]) > time.time() + 3000 for request in late)
    assert addresses_asked_for(model_hub) <= 3


def test_a_close_while_a_renewal_hangs(model_hub: Hub) -> None:
    revoked = Revoke(model_hub, 2)
    model_hub.api.when(lambda request: bool(revoked.refused), Stall(3))
    stream = ws.stream(FILE, **settings(model_hub))
    wait_until(lambda: revoked.refused)
    time.sleep(0.2)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 2
    wait_until(lambda: core_threads() == [], 1)
    check_settled(model_hub.cdn)
