"""The progress bar: on a terminal it shows bytes, tensors and GB/s; anywhere else it prints nothing."""

import io
import re
import sys
import threading

import pytest

from processes import on_a_terminal
from weightstream._progress import Progress


def run_on_a_terminal(code: str, term: str = "xterm") -> tuple[int, str, bytes]:
    """Run Python code with a terminal as its standard error. Returns its status, its screen and its standard output."""
    return on_a_terminal([sys.executable, "-c", code], TERM=term)


def test_shows_bytes_tensors_and_rate_on_a_terminal() -> None:
    status, screen, stdout = run_on_a_terminal(
        "import time\n"
        "from weightstream._progress import Progress\n"
        "with Progress(2_000_000_000, 2, 'a model') as bar:\n"
        "    assert bar.enabled\n"
        "    bar.update(1_000_000_000, 1)\n"
        "    time.sleep(0.3)\n"
        "    bar.update(2_000_000_000, 2)\n"
    )
    assert status == 0
    assert "a model" in screen
    assert "2.0/2.0 GB" in screen
    assert "2/2 tensors" in screen
    assert re.search(r"\d+\.\d\d GB/s", screen)
    assert stdout == b""


def test_the_final_state_is_drawn_however_fast_it_came() -> None:
    status, screen, _ = run_on_a_terminal(
        "from weightstream._progress import Progress\n"
        "bar = Progress(40_000, 40_000, 'specks')\n"
        "for n in range(40_000): bar.update(n + 1, n + 1)\n"
        "bar.close()\n"
    )
    assert status == 0
    assert "40000/40000 tensors" in screen


def test_leaves_standard_output_to_the_program() -> None:
    status, screen, stdout = run_on_a_terminal(
        "from weightstream._progress import Progress\nwith Progress(10, 1, 'x') as bar:\n    print('mine')\n"
    )
    assert status == 0
    assert stdout == b"mine\n"
    assert "mine" not in screen


def test_a_description_cannot_drive_the_terminal() -> None:
    status, screen, _ = run_on_a_terminal(
        "from weightstream._progress import Progress\n"
        "with Progress(10, 1, '[red]a\\x1b]0;title\\x07b\\n[/nonsense]') as bar:\n"
        "    bar.update(10, 1)\n"
    )
    assert status == 0
    assert "[red]a?]0;title?b?[/nonsense]" in screen
    assert "title\x07" not in screen


def test_prints_nothing_on_a_dumb_terminal() -> None:
    status, screen, _ = run_on_a_terminal(
        "from weightstream._progress import Progress\nwith Progress(10, 1, 'x') as bar:\n    bar.update(10, 1)\n",
        term="dumb",
    )
    assert (status, screen) == (0, "")


def test_prints_nothing_and_starts_no_thread_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    threads = threading.active_count()
    with Progress(100, 2, "x") as bar:
        assert not bar.enabled
        bar.update(50, 1)
        bar.update(100, 2)
        assert threading.active_count() == threads
    assert stderr.getvalue() == ""


@pytest.mark.parametrize("closed", [False, True], ids=["absent", "closed"])
def test_survives_a_missing_standard_error(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    stderr = None
    if closed:
        stderr = io.StringIO()
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    with Progress(100, 2, "x") as bar:
        bar.update(100, 2)
        assert not bar.enabled


def test_closing_twice_and_updating_afterwards_is_fine() -> None:
    status, screen, _ = run_on_a_terminal(
        "import threading\n"
        "from weightstream._progress import Progress\n"
        "bar = Progress(10, 1, 'x')\n"
        "bar.close()\n"
        "bar.close()\n"
        "bar.update(10, 1)\n"
        "assert not bar.enabled\n"
        "assert threading.active_count() == 1\n"
    )
    assert status == 0, screen


def test_an_exception_passes_and_the_bar_is_closed() -> None:
    status, screen, _ = run_on_a_terminal(
        "from weightstream._progress import Progress\nwith Progress(10, 1, 'x') as bar:\n    raise SystemExit(7)\n"
    )
    assert status == 7, screen
