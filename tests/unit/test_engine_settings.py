"""What the plug-ins of engines share: keys of the extra configuration, the stream behind them, and what is logged."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import weightstream as ws
from checkpoints import Raw, assert_same, blocks, write_file
from weightstream._config import Settings
from weightstream.integrations import _engine
from weightstream.integrations._engine import KEYWORDS, LoaderSettings, bound_by, is_url, stream_weights

LOGGER = logging.getLogger("some.engine")


@pytest.fixture
def model(tmp_path: Path) -> tuple[Path, dict[str, Raw]]:
    tensors = blocks(12, 5000)
    return write_file(tmp_path / "m.safetensors", tensors), tensors


class Bar:
    """Adds up what a progress bar is told."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.closed = total, 0, False

    def update(self, n: int) -> None:
        self.done += n

    def close(self) -> None:
        self.closed = True


def started(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keywords of each stream that is started from now on."""
    calls: list[dict[str, Any]] = []

    def start(location: Any, **keywords: Any) -> Any:
        calls.append(keywords)
        return ws.stream(location, **{**keywords, "storage_options": None})

    monkeypatch.setattr(_engine, "start_stream", start)
    return calls


def test_the_keys_are_keywords_of_stream() -> None:
    assert set(KEYWORDS) < set(Settings.__dataclass_fields__)


def test_the_keys_reach_the_stream(model: tuple[Path, dict[str, Raw]], monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"concurrency": 3, "memory_limit": "256MiB", "device_limit": None, "backend": "pread", "device": "cpu"}
    settings = LoaderSettings.of(extra, "extra")
    assert settings.device == "cpu"
    calls = started(monkeypatch)
    assert_same(stream_weights(str(model[0]), settings, device="cpu", logger=LOGGER), model[1])
    given = {"concurrency": 3, "memory_limit": "256MiB", "backend": "pread"}
    assert calls == [{"device": "cpu", "framework": "pt", "names": None, "storage_options": None, **given}]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (
            {"concurency": 4, "num_threads": 2},
            "extra: weightstream knows no concurency, num_threads; it knows backend, ",
        ),
        ({"concurrency": 0}, "extra: concurrency=0 must be a whole number from 1 to 1024"),
        ({"memory_limit": "much"}, "extra: memory_limit='much' is not a size"),
        ({"backend": "fast"}, "extra: backend='fast' is not one of 'auto'"),
        ({"storage_options": "s3"}, "extra: storage_options is a mapping, not a str"),
        ("concurrency=4", "extra is a mapping, not a str"),
    ],
    ids=str,
)
def test_what_cannot_work_is_an_error_before_anything_is_read(extra: Any, message: str) -> None:
    with pytest.raises(ws.ConfigError) as caught:
        LoaderSettings.of(extra, "extra")
    assert str(caught.value).startswith(message)


def test_storage_options_are_for_urls(model: tuple[Path, dict[str, Raw]], monkeypatch: pytest.MonkeyPatch) -> None:
    settings = LoaderSettings.of({"storage_options": {"anonymous": True}}, "extra")
    assert "anonymous" not in repr(settings)
    calls = started(monkeypatch)
    list(stream_weights([str(model[0])], settings, device="cpu", logger=LOGGER))
    with pytest.raises(ws.ConfigError, match="there is no valid bucket in it"):
        list(stream_weights("s3://", settings, device="cpu", logger=LOGGER))
    assert [call["storage_options"] for call in calls] == [None, {"anonymous": True}]


def test_what_is_a_url(tmp_path: Path) -> None:
    assert is_url("s3://bucket/model")
    assert is_url([tmp_path, "hf://org/model"])
    assert not is_url(tmp_path)
    assert not is_url([str(tmp_path)])


def test_a_line_before_and_a_line_after(model: tuple[Path, dict[str, Raw]], caplog: pytest.LogCaptureFixture) -> None:
    bars: list[Bar] = []

    def bar(nbytes: int) -> Bar:
        bars.append(Bar(nbytes))
        return bars[0]

    with caplog.at_level(logging.INFO, "some.engine"):
        found = stream_weights(
            [model[0]], LoaderSettings(), device="cpu", wanted=lambda name: name < "t004", logger=LOGGER, bar=bar
        )
        assert [name for name, _ in found] == ["t000", "t001", "t002", "t003"]
    first, last = (record.getMessage() for record in caplog.records)
    assert first == f"weightstream {ws.__version__} streams 4 tensors (20.0 kB) of 1 file to cpu"
    assert last.startswith("weightstream loaded 4 tensors (20.0 kB) in ")
    assert " GB/s, bound by " in last
    assert (bars[0].total, bars[0].done, bars[0].closed) == (20_000, 20_000, True)


def test_a_consumer_that_stops_early_leaves_nothing(model: tuple[Path, dict[str, Raw]], no_leaks: Any) -> None:
    bar = Bar(0)
    found = stream_weights(str(model[0]), LoaderSettings(), device="cpu", logger=LOGGER, bar=lambda _: bar)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert bar.closed
    no_leaks()


@pytest.mark.parametrize(
    ("storage", "device", "opened", "words"),
    [
        (6.0, 1.0, 0.0, "the storage"),
        (1.0, 6.0, 0.0, "copies to the device"),
        (2.0, 1.0, 0.5, "the engine"),
        (3.0, 0, 4.0, "the storage"),
    ],
)
def test_what_a_load_was_bound_by(storage: float, device: float, opened: float, words: str) -> None:
    stats: Any = SimpleNamespace(seconds=10.0, wait_storage_seconds=storage, wait_device_seconds=device)
    assert bound_by(stats, opened) == words
