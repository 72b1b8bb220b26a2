"""The thread that makes new access: who is answered, what a failure says, and that it ends."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import weightstream as ws
from fake_core import FakeCore, HttpObject, install  # noqa: F401
from weightstream.sources import Access, LocalSource, RemoteSource
from weightstream.sources.renewal import Renewer

SECRET = "canarySecret"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "weightstream-renew"]


def ask(one: HttpObject) -> None:
    one.answered.clear()
    assert one.renewals is not None
    one.renewals.ask(one)
    assert one.answered.wait(10)


def test_it_answers_who_asks(fake_core: FakeCore) -> None:
    made = iter(range(10))

    def renew() -> Access:
        return Access(f"https://host/b?n={next(made)}", {"A": "b"}, 5.0, "https://hub")

    sources = [
        RemoteSource("a", Access("https://host/a")),
        LocalSource("/c"),
        RemoteSource("b", Access("https://host/b"), renew=renew),
        RemoteSource("b", Access("https://host/b"), renew=lambda: Access("https://host/other")),
    ]
    with Renewer(sources) as renewer:
        a, c, b, b2 = renewer.objects
        assert (a.renewals, c) == (None, b"/c")
        for one in (b, b, b2):
            ask(one)
        assert b.renewed == [(f"https://host/b?n={n}", [("A", "b")], 5.0, "https://hub") for n in range(2)]
        assert b2.renewed == [("https://host/other", [], None, None)]
        assert threads() == ["weightstream-renew"]
    assert threads() == []


def test_a_failure_is_told_without_secrets(fake_core: FakeCore) -> None:
    errors = iter([ws.AuthError("log in again", source="s3://b/k"), RuntimeError(f"https://host/?sig={SECRET}")])

    def renew() -> Access:
        raise next(errors)

    with Renewer([RemoteSource("b", Access("https://host/b"), renew=renew)]) as renewer:
        (one,) = renewer.objects
        ask(one)
        ask(one)
    assert one.failed == ["log in again", "its credentials could not be renewed: RuntimeError"]


def test_it_is_counted(fake_core: FakeCore) -> None:
    renewer = Renewer([RemoteSource("b", Access("https://host/b"), renew=lambda: Access("https://host/c"))])
    renewer.stop()  # of nobody
    for _ in range(2):
        renewer.start()
        renewer.start()
        assert len(threads()) == 1
        renewer.stop()
        assert len(threads()) == 1
        ask(renewer.objects[0])
        renewer.stop()
        assert threads() == []
    assert len(renewer.objects[0].renewed) == 2


def test_nothing_to_renew_takes_no_thread(fake_core: FakeCore, tmp_path: Path) -> None:
    with Renewer([RemoteSource("a", Access("https://host/a")), LocalSource(str(tmp_path))]):
        assert threads() == []


def test_a_chain_that_hangs_does_not_hold_up_the_end(
    fake_core: FakeCore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("weightstream.sources.renewal._LAST_WAIT", 0.1)
    begun, release = threading.Event(), threading.Event()

    def renew() -> Access:
        begun.set()
        release.wait(30)
        return Access("https://host/late")

    renewer = Renewer([RemoteSource("b", Access("https://host/b"), renew=renew)])
    renewer.start()
    (one,) = renewer.objects
    one.renewals.ask(one)
    assert begun.wait(10)
    since = time.monotonic()
    renewer.stop()
    assert time.monotonic() - since < 5
    release.set()
    assert one.answered.wait(10)  # late, and harmless
