"""scripts/trace-picture.py: every read, copy, wait and hand-over of a trace is in the picture, where it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import pytest

from weightstream import _trace

SCRIPT = Path(__file__).parents[2] / "scripts" / "trace-picture.py"
SVG = "{http://www.w3.org/2000/svg}"

EVENTS: list[_trace.Event] = [
    ("read", "uring", 0.000, 0.100, 0, 0, 8 << 20),
    ("read", "uring", 0.050, 0.200, 0, 8 << 20, 16 << 20),  # beside the first: a row of its own
    ("failed read", "http", 0.100, 0.150, 1, 0, 4096),
    ("copy", "", 0.100, 0.120, 0, 0, 8 << 20),
    ("copy", "", 0.200, 0.220, 0, 8 << 20, 16 << 20),
    ("wait storage", "", 0.000, 0.100, -1, 0, 0),
    ("wait device", "", 0.100, 0.120, -1, 0, 0),
    ("hand over", "a<b>&c", 0.120, 0.120, -1, 0, 1000),
    ("hand over", "d", 0.220, 0.220, -1, 0, 2000),
]


def draw(folder: Path, *options: str, trace: str | None = None) -> subprocess.CompletedProcess[str]:
    if trace is None:
        _trace.write(str(folder / "load.json"), EVENTS, ["/models/a", "/models/b"])
    else:
        (folder / "load.json").write_text(trace)
    command = [sys.executable, SCRIPT, folder / "load.json", folder / "load.svg", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def shapes(picture: Path) -> tuple[ElementTree.Element, Counter[str]]:
    root = ElementTree.parse(picture).getroot()
    legend = 6
    count = Counter(e.get("class", "") for e in root.iter(f"{SVG}rect") if e.get("rx") is None)
    assert sum(e.get("rx") == "2" for e in root.iter(f"{SVG}rect")) <= legend
    return root, count


def test_shows_all_that_happened(tmp_path: Path) -> None:
    done = draw(tmp_path)
    assert done.returncode == 0, done.stderr
    root, count = shapes(tmp_path / "load.svg")
    assert count == {"row": 6, "read": 2, "failed": 1, "copy": 2, "storage": 1, "device": 1}
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert "reads (uring)" in texts
    assert "up to 2 at a time" in texts
    assert "2 tensors, 3e-06 GB in 0.22 s: 1.36e-05 GB/s" in texts
    marks = [path.get("d", "") for path in root.iter(f"{SVG}path") if path.get("class") == "tensor"]
    assert sorted(mark.count("M") for mark in marks) == [1, 2]  # of the legend, and of the consumer
    # Times are places: the second copy begins where the second read ends.
    (read,) = [e for e in root.iter(f"{SVG}rect") if e.get("class") == "read" and float(e.get("width", 0)) > 500]
    copy = [e for e in root.iter(f"{SVG}rect") if e.get("class") == "copy" and e.get("rx") is None][-1]
    assert float(copy.get("x", 0)) == pytest.approx(float(read.get("x", 0)) + float(read.get("width", 0)), abs=1)


def test_looks_closer(tmp_path: Path) -> None:
    assert draw(tmp_path, "--from", "0.21", "--to", "0.22").returncode == 0
    root, count = shapes(tmp_path / "load.svg")
    assert count == {"row": 6, "copy": 1}
    copy = next(e for e in root.iter(f"{SVG}rect") if e.get("class") == "copy" and e.get("rx") is None)
    assert float(copy.get("width", 0)) == pytest.approx(960 - 132 - 24, abs=1)


@pytest.mark.parametrize(
    ("options", "trace", "message"),
    [
        ((), "[]", "is no trace of weightstream"),
        ((), "{", "is no trace of weightstream"),
        ((), json.dumps({"traceEvents": []}), "has no events"),
        (("--from", "2", "--to", "1"), None, "there is nothing between 2 and 1 seconds"),
    ],
)
def test_says_what_it_cannot_draw(tmp_path: Path, options: tuple[str, ...], trace: str | None, message: str) -> None:
    done = draw(tmp_path, *options, trace=trace)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "load.svg").exists()
