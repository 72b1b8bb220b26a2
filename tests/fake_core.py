"""What the control plane hands to the core, without a core: objects that answer from a dictionary of URLs."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

import weightstream._core as core

HEAD = 1 << 20


class Renewals:
    """Where objects ask for new access."""

    def __init__(self) -> None:
        self.asking: list[Any] = []
        self._some = threading.Condition()

    def ask(self, one: Any) -> None:
        with self._some:
            self.asking.append(one)
            self._some.notify()

    def next(self, seconds: float) -> Any:
        with self._some:
            self._some.wait_for(lambda: self.asking, seconds)
            return self.asking.pop(0) if self.asking else None


@dataclass(eq=False)
class HttpObject:
    """What was handed over, and what came of asking for new access."""

    name: str
    url: str
    headers: list[tuple[str, str]]
    size: int | None
    etag: str | None
    expires_at: float | None
    redirected_by: str | None
    renewals: Renewals | None
    options: dict[str, Any]
    renewed: list[Any] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    answered: threading.Event = field(default_factory=threading.Event)

    @staticmethod
    def make(**values: Any) -> HttpObject:
        return HttpObject(**values)

    def renew(
        self, url: str, headers: list[tuple[str, str]], expires_at: float | None, redirected_by: str | None
    ) -> None:
        self.renewed.append((url, headers, expires_at, redirected_by))
        self.answered.set()

    def renewal_failed(self, message: str) -> None:
        self.failed.append(message)
        self.answered.set()


class FakeCore:
    """The part of `_core` that reads remote objects."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}  # by URL, with its query
        self.opened: list[HttpObject] = []
        self.closed = 0
        self.Renewals = Renewals
        self.HttpObject = HttpObject
        outer = self

        class Sources:
            def __init__(self, objects: list[HttpObject]) -> None:
                self.bodies = [outer.bodies[one.url] for one in objects]

            @staticmethod
            def open(objects: list[HttpObject], log: core.Log) -> Any:
                outer.opened += objects
                return Sources(objects)

            def size(self, index: int) -> int:
                return len(self.bodies[index])

            def head(self, index: int) -> bytes:
                return self.bodies[index][:HEAD]

        class RawStream:
            def __init__(self, pieces: list[tuple[int, bytes]]) -> None:
                self.pieces = pieces

            @staticmethod
            def start(
                opened: Any, ranges: list[tuple[int, int, int]], *, memory_limit: int, concurrency: int, called: float
            ) -> Any:
                pieces = [(i, opened.bodies[source][begin:end]) for i, (source, begin, end) in enumerate(ranges)]
                return RawStream(pieces[::-1])

            def next(self) -> list[tuple[int, bytes]]:
                batch, self.pieces = self.pieces[:2], self.pieces[2:]
                return batch

            def close(self) -> None:
                outer.closed += 1

            def drain_log(self) -> list[tuple[int, str]]:
                return []

        self.Sources = Sources
        self.RawStream = RawStream


@pytest.fixture(name="fake_core")
def install(monkeypatch: pytest.MonkeyPatch) -> FakeCore:
    fake = FakeCore()
    for name in ("Renewals", "HttpObject", "Sources", "RawStream"):
        monkeypatch.setattr(core, name, getattr(fake, name), raising=False)
    return fake
