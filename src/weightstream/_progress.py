"""A progress bar on standard error: bytes, tensors, the rate in GB/s (1e9 bytes a second) and the time left.

It shows only on a terminal. Where standard error is a file, a pipe or closed, it prints nothing and costs nothing.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress

_REFRESH_SECONDS = 0.1


class Progress:
    """The bar of one load of `total_bytes` bytes in `total_tensors` tensors.

    `description` is a few words that say what is loaded; `noun` is what is counted. Use the bar as a context manager,
    or call `close()`. One thread updates it. While it is open, nothing else should write to the terminal's current
    line.

    For example, `with Progress(stream.nbytes, len(stream), "model") as bar:` and then, now and again,
    `bar.update(stream.stats.bytes, stream.stats.tensors)`.
    """

    def __init__(
        self, total_bytes: int, total_tensors: int, description: str = "loading", noun: str = "tensors"
    ) -> None:
        self._total_bytes = total_bytes
        self._total_tensors = total_tensors
        self._noun = noun
        self._bytes = 0
        self._tensors = 0
        self._closed = threading.Event()
        self._bar: RichProgress | None = None
        if not _is_terminal():
            return
        self._bar = _new_bar()
        self._task = self._bar.add_task(_one_line(description), total=total_bytes, rate="", tensors="")
        self._draw()
        self._bar.start()
        self._thread = threading.Thread(target=self._draw_until_closed, name="weightstream-progress", daemon=True)
        self._thread.start()

    @property
    def enabled(self) -> bool:
        """Whether the bar is on the screen."""
        return self._bar is not None

    def update(self, nbytes: int, tensors: int) -> None:
        """Show that `nbytes` bytes and `tensors` tensors were handed out so far. Costs next to nothing."""
        self._bytes = nbytes
        self._tensors = tensors

    def extend(self, nbytes: int, tensors: int) -> None:
        """Add so many bytes and tensors to what is to come."""
        self._total_bytes += nbytes
        self._total_tensors += tensors

    def close(self) -> None:
        """Draw the final state and leave it on the screen. Closing twice is fine."""
        if self._bar is None:
            return
        self._closed.set()
        self._thread.join()
        self._draw()
        self._bar.stop()
        self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _draw_until_closed(self) -> None:
        # A thread of its own, and not rich's, which outlives the bar: drawing goes on while the storage stalls.
        while not self._closed.wait(_REFRESH_SECONDS):
            self._draw()

    def _draw(self) -> None:
        assert self._bar is not None
        # The average since the start: when the storage stalls it falls, where the rate of the last reads would freeze.
        elapsed = self._bar.tasks[0].elapsed or 0.0
        rate = f"{self._bytes / elapsed / 1e9:.2f} GB/s" if self._bytes and elapsed else ""
        tensors = f"{self._tensors}/{self._total_tensors} {self._noun}"
        self._bar.update(
            self._task, completed=self._bytes, total=self._total_bytes, rate=rate, tensors=tensors, refresh=True
        )


def prepare() -> None:
    """Import what a bar needs, where one would show: the first one takes a noticeable part of a second."""
    if _is_terminal():
        _new_bar()


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    except ValueError:  # standard error was closed
        return False


def _one_line(text: str) -> str:
    """Return the text without what would move the cursor or be taken for rich markup."""
    return "".join(c if c.isprintable() else "?" for c in text).replace("[", r"\[")


def _new_bar() -> RichProgress:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TextColumn("{task.fields[tensors]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(file=sys.stderr),
        auto_refresh=False,
        # Standard output belongs to the program: `weightstream load --json | jq` must see the JSON and nothing else.
        redirect_stdout=False,
        redirect_stderr=False,
    )
