"""A progress bar on standard error: bytes, tensors, the rate in GB/s (1e9 bytes a second) and the time left.

It shows only on a terminal. Where standard error is a file, a pipe or closed, it prints nothing and costs nothing.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    from rich.progress import Progress as RichProgress

# An update of the bar takes some 20 microseconds; a checkpoint of 40,000 small tensors must not pay that for each.
_UPDATE_SECONDS = 0.05
_REFRESHES_PER_SECOND = 10


class Progress:
    """The bar of one load of `total_bytes` bytes in `total_tensors` tensors.

    `description` is a few words that say what is loaded. Use the bar as a context manager, or call `close()`. Not
    thread-safe: one thread updates it. While it is open, nothing else should write to the terminal's current line.

    For example, `with Progress(stream.nbytes, len(stream), "model") as bar:` and then, now and again,
    `bar.update(stream.stats.bytes, stream.stats.tensors)`.
    """

    def __init__(self, total_bytes: int, total_tensors: int, description: str = "loading") -> None:
        self._total_bytes = total_bytes
        self._total_tensors = total_tensors
        self._bytes = 0
        self._tensors = 0
        self._last_update = 0.0
        self._bar: RichProgress | None = _new_bar() if _is_terminal() else None
        if self._bar is not None:
            self._task = self._bar.add_task(_one_line(description), total=total_bytes, rate="", tensors="")
            self._draw()
            self._bar.start()

    @property
    def enabled(self) -> bool:
        """Whether the bar is on the screen."""
        return self._bar is not None

    def update(self, nbytes: int, tensors: int) -> None:
        """Show that `nbytes` bytes and `tensors` tensors were handed out so far."""
        if self._bar is None:
            return
        self._bytes = nbytes
        self._tensors = tensors
        if time.monotonic() - self._last_update >= _UPDATE_SECONDS:
            self._draw()

    def close(self) -> None:
        """Draw the final state and leaves it on the screen. Closing twice is fine."""
        if self._bar is None:
            return
        self._draw()
        self._bar.stop()
        self._bar = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _draw(self) -> None:
        assert self._bar is not None
        self._last_update = time.monotonic()
        # The average since the start: on a stalled storage it falls, where the rate of the last reads would freeze.
        elapsed = self._bar.tasks[0].elapsed or 0.0
        rate = f"{self._bytes / elapsed / 1e9:.2f} GB/s" if self._bytes and elapsed else ""
        tensors = f"{self._tensors}/{self._total_tensors} tensors"
        self._bar.update(self._task, completed=self._bytes, rate=rate, tensors=tensors)


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
        refresh_per_second=_REFRESHES_PER_SECOND,
        # Standard output belongs to the program: `weightstream load --json | jq` must see the JSON and nothing else.
        redirect_stdout=False,
        redirect_stderr=False,
    )
