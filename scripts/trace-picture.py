"""Draws what a load did when, as an SVG, from the JSON that `weightstream load --trace` wrote:

    python scripts/trace-picture.py load.json load.svg
    python scripts/trace-picture.py load.json load.svg --from 0.1 --to 0.3     (seconds)

A thin row for each read that was in flight at a time, by reader; one for the copies to the device; and two for the
consumer: what it waited for, and a mark for every tensor that it was handed. It needs nothing but Python, and the
picture suits light and dark pages. For a closer look, open the JSON in https://ui.perfetto.dev.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

WIDTH, LEFT, RIGHT, TOP = 960, 132, 24, 84
READ, ROW, GAP, SECTION = 5, 18, 1.5, 16

STYLE = """
    .card { fill: #ffffff; stroke: #d0d7de; }
    .title { fill: #1f2328; font-size: 15px; font-weight: 600; }
    .text { fill: #1f2328; font-size: 12.5px; }
    .note { fill: #59636e; font-size: 11.5px; }
    .grid { stroke: #d8dee4; stroke-width: 1; }
    .row { fill: #f6f8fa; }
    .read { fill: #218bff; }
    .failed { fill: #cf222e; }
    .copy { fill: #1a7f37; }
    .storage { fill: #afb8c1; }
    .device { fill: #e16f24; }
    .tensor { stroke: #8250df; stroke-width: 1.2; }
    @media (prefers-color-scheme: dark) {
      .card { fill: #0d1117; stroke: #3d444d; }
      .title, .text { fill: #f0f6fc; }
      .note { fill: #b7bdc8; }
      .grid { stroke: #30363d; }
      .row { fill: #161b22; }
      .read { fill: #4493f8; }
      .failed { fill: #f85149; }
      .copy { fill: #3fb950; }
      .storage { fill: #656c76; }
      .device { fill: #db6d28; }
      .tensor { stroke: #be8fff; }
    }
  """

CLASSES = {
    "read": "read",
    "failed read": "failed",
    "copy": "copy",
    "waits for storage": "storage",
    "waits for the device": "device",
}
LEGEND = (
    ("read", "reads"),
    ("failed", "failed reads"),
    ("copy", "copies to the device"),
    ("storage", "the consumer waits for storage"),
    ("device", "the consumer waits for the device"),
    ("tensor", "a tensor is handed over"),
)


@dataclass
class Trace:
    """The events of each row, in the order of the rows; times in seconds."""

    rows: dict[str, list[dict[str, Any]]]

    @classmethod
    def load(cls, path: Path) -> Trace:
        try:
            events = json.loads(path.read_text())["traceEvents"]
            names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
            rows: dict[str, list[dict[str, Any]]] = {names[tid]: [] for tid in sorted(names)}
            for event in events:
                if event["ph"] in "Xi":
                    rows[names[event["tid"]]].append(event)
        except (ValueError, KeyError, TypeError) as error:
            raise SystemExit(f"{path} is no trace of weightstream: {error!r}") from None
        if not any(rows.values()):
            raise SystemExit(f"{path} has no events: was it written before the load ended?")
        return cls(rows)

    def readers(self) -> dict[str, list[str]]:
        """The rows of each reader."""
        readers: dict[str, list[str]] = {}
        for name in self.rows:
            if name not in ("next()", "copies"):
                readers.setdefault(name.rpartition(" ")[0], []).append(name)
        return readers

    def end(self) -> float:
        return max(end_of(event) for events in self.rows.values() for event in events)


def begin_of(event: dict[str, Any]) -> float:
    return float(event["ts"]) / 1e6


def end_of(event: dict[str, Any]) -> float:
    return begin_of(event) + float(event.get("dur", 0.0)) / 1e6


class Picture:
    """Grows downwards, a row at a time."""

    def __init__(self, trace: Trace, begin: float, end: float) -> None:
        self.trace = trace
        self.begin, self.end = begin, end
        self.y: float = TOP
        self.parts: list[str] = []
        self.used: set[str] = set()

    def x(self, seconds: float) -> float:
        share = (min(max(seconds, self.begin), self.end) - self.begin) / (self.end - self.begin)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def text(self, kind: str, x: float, y: float, text: str, anchor: str = "start") -> None:
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(text)}</text>')

    def row(self, name: str, height: float, phase: str = "X") -> None:
        """The spans ("X") or the moments ("i") of one row."""
        self.parts.append(
            f'<rect class="row" x="{LEFT}" y="{self.y:g}" width="{WIDTH - LEFT - RIGHT}" height="{height:g}"/>'
        )
        shown = [e for e in self.trace.rows[name] if end_of(e) >= self.begin and begin_of(e) <= self.end]
        events = [event for event in shown if event["ph"] == phase]
        if phase == "X":
            for event in events:
                self.span(CLASSES[event["name"]], event, height)
        elif events:
            # As one path, and no more marks than there is room for.
            self.used.add("tensor")
            marks = sorted({round(self.x(begin_of(event)) * 2) / 2 for event in events})
            path = "".join(f"M{x:g} {self.y:g}v{height:g}" for x in marks)
            self.parts.append(f'<path class="tensor" d="{path}"/>')
        self.y += height

    def span(self, kind: str, event: dict[str, Any], height: float) -> None:
        x, end = self.x(begin_of(event)), self.x(end_of(event))
        # A seam between neighbours, where there is room for one.
        width = max(end - x - (0.6 if end - x > 3 else 0), 0.4)
        self.used.add(kind)
        self.parts.append(f'<rect class="{kind}" x="{x:.2f}" y="{self.y:g}" width="{width:.2f}" height="{height:g}"/>')

    def draw(self) -> str:
        for reader, rows in self.trace.readers().items():
            top = self.y
            for name in rows:
                self.row(name, READ)
                self.y += GAP
            middle = (top + self.y - GAP) / 2
            self.text("text", LEFT - 12, middle - 1, f"reads ({reader})", "end")
            self.text("note", LEFT - 12, middle + 14, f"up to {len(rows)} at a time", "end")
            self.y = max(self.y, top + 2 * ROW) + SECTION
        for name, label, phase in (("copies", "copies", "X"), ("next()", "waits", "X"), ("next()", "hand-overs", "i")):
            if name not in self.trace.rows:
                continue
            self.text("text", LEFT - 12, self.y + ROW / 2 + 4, label, "end")
            self.row(name, ROW, phase)
            self.y += SECTION
        bottom = self.y - SECTION + 6
        grid = list(self.grid(bottom))
        height = bottom + 34
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
                "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" "
                'role="img" aria-labelledby="title description">',
                f'<title id="title">{escape(self.title())}</title>',
                f'<desc id="description">{escape(self.description())}</desc>',
                f"<style>{STYLE}</style>",
                f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="12"/>',
                f'<text class="title" x="24" y="32">{escape(self.title())}</text>',
                *self.legend(),
                *self.parts,
                *grid,
                "</svg>\n",
            ]
        )

    def grid(self, bottom: float) -> Iterator[str]:
        step = next(step for step in steps() if (self.end - self.begin) / step <= 10)
        tick = -(-self.begin // step)
        while tick * step <= self.end:
            seconds = tick * step
            x = self.x(seconds)
            text = f"{seconds * 1000:.4g} ms" if self.end < 1 else f"{seconds:.4g} s"
            yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom:g}" opacity="0.6"/>'
            yield f'<text class="note" x="{x:.1f}" y="{bottom + 17:g}" text-anchor="middle">{text}</text>'
            tick += 1

    def legend(self) -> Iterator[str]:
        x = 24.0
        for kind, label in LEGEND:
            if kind not in self.used:
                continue
            if kind == "tensor":
                yield f'<path class="tensor" d="M{x + 6:g} 46v12"/>'
            else:
                yield f'<rect class="{kind}" x="{x:g}" y="46" width="12" height="12" rx="2"/>'
            yield f'<text class="note" x="{x + 17:g}" y="56">{escape(label)}</text>'
            x += 30 + 6.1 * len(label)

    def title(self) -> str:
        tensors = [event for event in self.trace.rows.get("next()", []) if event["ph"] == "i"]
        nbytes = sum(event["args"]["bytes"] for event in tensors)
        seconds = max((begin_of(event) for event in tensors), default=self.trace.end())
        count = f"{len(tensors):,} tensor{'' if len(tensors) == 1 else 's'}"
        return f"{count}, {nbytes / 1e9:.3g} GB in {seconds:.3g} s: {nbytes / seconds / 1e9:.3g} GB/s"

    def description(self) -> str:
        reads = ", ".join(f"{reader}: up to {len(rows)} at a time" for reader, rows in self.trace.readers().items())
        parts = [f"A time line from {self.begin:.3g} to {self.end:.3g} seconds. Reads by {reads}."]
        if copies := self.trace.rows.get("copies"):
            first, last = begin_of(copies[0]), end_of(copies[-1])
            parts.append(f"Copies to the device run from {first:.3g} to {last:.3g} seconds, while reads go on.")
        parts.append("Below them is what the consumer waited for, and when it was handed tensors.")
        return " ".join(parts)


def steps() -> Iterator[float]:
    """1, 2, 5, 10, ... from a microsecond on."""
    power = -6
    while True:
        for factor in (1, 2, 5):
            yield factor * 10.0**power
        power += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", type=Path, help="what `weightstream load --trace` wrote")
    parser.add_argument("picture", type=Path, help="the SVG to write")
    parser.add_argument(
        "--from", dest="begin", type=float, default=0.0, metavar="SECONDS", help="leave out what is before"
    )
    parser.add_argument("--to", dest="end", type=float, metavar="SECONDS", help="leave out what is after")
    options = parser.parse_args()
    trace = Trace.load(options.trace)
    end = trace.end() if options.end is None else options.end
    if not 0 <= options.begin < end:
        parser.error(f"there is nothing between {options.begin:g} and {end:g} seconds")
    options.picture.write_text(Picture(trace, options.begin, end).draw())


if __name__ == "__main__":
    main()
