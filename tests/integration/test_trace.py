"""Traces: what they say is what happened, and they load in a viewer."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import weightstream as ws
from checkpoints import assert_same, blocks, write_file
from commands import invoke
from fake_gpu import FakeGpu, fake_gpu

MIB = 1 << 20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_file(tmp_path / "model.safetensors", blocks(6, MIB))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:
        yield made


def rows_of(trace: Path) -> dict[str, list[dict[str, Any]]]:
    """The events of each row, by its name, in order."""
    events = json.loads(trace.read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in sorted((event for event in events if event["ph"] in "Xi"), key=lambda event: float(event["ts"])):
        rows[names[event["tid"]]].append(event)
    return rows


def reads_in(rows: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [event for events in rows.values() for event in events if event["name"] == "read"]


def test_says_what_was_read_and_handed_out(model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "load.json"
    with ws.stream(model, trace=trace, backend="pread") as stream:
        names = [name for name, _ in stream]
        stats = stream.stats
    rows = rows_of(trace)
    reads = reads_in(rows)
    assert len(reads) == stats.reads
    assert {read["args"]["source"] for read in reads} == {str(model)}
    size = model.stat().st_size
    assert sum(min(read["args"]["end"], size) - read["args"]["begin"] for read in reads) == stats.bytes_read
    handed = [event for event in rows["next()"] if event["ph"] == "i"]
    assert [event["name"] for event in handed] == names
    waits = sum(event["dur"] for event in rows["next()"] if event["name"] == "waits for storage")
    assert waits / 1e6 == pytest.approx(stats.wait_storage_seconds, abs=1e-4)
    assert "copies" not in rows
    for name, events in rows.items():
        spans = [(event["ts"], event["ts"] + event["dur"]) for event in events if event["ph"] == "X"]
        ends = [end for _, end in spans]
        assert all(begin >= end - 1 for (begin, _), end in zip(spans[1:], ends, strict=False)), name  # microseconds


def test_shows_copies_behind_their_reads(gpu: FakeGpu, model: Path, tmp_path: Path) -> None:
    gpu.library.fake_set_timing(2000, 0, 100)
    trace = tmp_path / "load.json"
    ws.load(model, trace=trace)
    rows = rows_of(trace)
    ended = {read["args"]["begin"]: read["ts"] + read["dur"] for read in reads_in(rows)}
    copies = rows["copies"]
    assert sorted(copy["args"]["begin"] for copy in copies) == sorted(ended)
    assert all(copy["ts"] >= ended[copy["args"]["begin"]] - 1 for copy in copies)
    assert all(later["ts"] >= copy["ts"] + copy["dur"] - 1 for copy, later in itertools.pairwise(copies))


def test_is_written_when_a_load_is_broken_off(model: Path, tmp_path: Path) -> None:
    trace = tmp_path / "load.json"
    stream = ws.stream(model, trace=trace)
    next(stream)
    assert not trace.exists()
    stream.close()
    assert reads_in(rows_of(trace))


def test_a_file_that_cannot_be_written_is_said_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tmp_path, tmp_path / "none" / "load.json"):
        with pytest.raises(ws.ConfigError, match=r"trace=.* is not a file that can be written"):
            ws.load(model, trace=path)
    monkeypatch.setenv("WEIGHTSTREAM_TRACE", str(tmp_path / "none" / "load.json"))
    with pytest.raises(ws.ConfigError, match="WEIGHTSTREAM_TRACE"):
        ws.load(model)


def test_by_the_environment_and_the_command(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("load", model, "--trace", tmp_path / "command.json")
    assert result.exit_code == 0
    assert reads_in(rows_of(tmp_path / "command.json"))
    monkeypatch.setenv("WEIGHTSTREAM_TRACE", str(tmp_path / "environment.json"))
    assert_same(ws.load(model), blocks(6, MIB))
    assert reads_in(rows_of(tmp_path / "environment.json"))
