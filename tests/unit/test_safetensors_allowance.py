"""What all handles may read ahead together, and who watches that it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from processes import wait_until
from weightstream.safetensors._allowance import Allowance


class Ahead:
    """What is watched: it is idle when `idle` says so, and counts how often it was asked."""

    def __init__(self, *, idle: bool) -> None:
        self.idle = idle
        self.asked = 0

    def stop_if_idle(self, _now: float) -> bool:
        self.asked += 1
        return self.idle


@pytest.fixture
def allowance() -> Iterator[Allowance]:
    """One whose thread looks every 5 ms."""
    made = Allowance()
    made.idle_seconds = 0.02
    yield made
    wait_until(lambda: not made.watching)


def test_bytes() -> None:
    mine = Allowance()
    assert mine.take(60, 100)
    assert not mine.take(41, 100)
    assert mine.take(40, 100)
    mine.give_back(100)
    assert (mine.used, mine.peak) == (0, 100)


def test_a_thread_looks_as_long_as_there_is_something(allowance: Allowance) -> None:
    ahead = Ahead(idle=False)
    allowance.watch(ahead)
    wait_until(lambda: ahead.asked > 2)
    assert allowance.watching
    ahead.idle = True


def test_who_begins_again_while_it_is_stopped_is_watched_on(allowance: Allowance) -> None:
    class Again(Ahead):
        def stop_if_idle(self, _now: float) -> bool:
            self.asked += 1
            if self.asked == 1:
                allowance.watch(self)  # by another thread, which had to wait for the lock
            return True

    ahead = Again(idle=True)
    allowance.watch(ahead)
    wait_until(lambda: ahead.asked == 2)


def test_where_no_thread_can_be_started_the_next_one_starts_it(
    allowance: Allowance, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    first, second = Ahead(idle=True), Ahead(idle=True)
    with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "weightstream"):
        patch.setattr(threading.Thread, "start", fail)
        allowance.watch(first)
    assert not allowance.watching
    assert "can't start new thread" in caplog.text
    allowance.watch(second)
    wait_until(lambda: first.asked and second.asked)
