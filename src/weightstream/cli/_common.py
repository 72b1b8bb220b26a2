"""What all subcommands share: options, and the one place where exceptions become messages and exit statuses."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Sequence
from fnmatch import translate
from typing import Any, TypeVar

import click

from .._format import printable

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 128 + 2  # as if ended by SIGINT
EXIT_PIPE_CLOSED = 128 + 13  # as if ended by SIGPIPE

_DEBUG = "weightstream.debug"

Command = TypeVar("Command", bound=Callable[..., Any])


class Failure(Exception):
    """A problem that a subcommand found itself. `hint` says what to do about it."""

    def __init__(self, message: str, hint: str | None = None, exit_status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_status = exit_status


class Program(click.Group):
    """A command group whose subcommands end with one line on standard error instead of a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand and turn what it raises into a message and an exit status."""
        _never_fail_to_encode()
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a closed pipe is still caught
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)
        except Exception as error:
            if isinstance(error, (click.exceptions.Exit, click.ClickException, click.Abort)):
                raise
            if isinstance(error, BrokenPipeError):
                # Python flushes standard output once more at exit, and would complain.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                ctx.exit(EXIT_PIPE_CLOSED)
            if ctx.meta.get(_DEBUG):
                raise
            known = _explain(error)
            if known is None:
                raise
            message, hint, status = known
            click.echo(f"error: {printable(message)}", err=True)
            if hint:
                click.echo(f"hint: {hint}", err=True)
            ctx.exit(status)
        return result


def _never_fail_to_encode() -> None:
    """Tensor names may hold any character; a terminal that cannot show one gets its escape."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _explain(error: Exception) -> tuple[str, str | None, int] | None:
    """Return the message, the hint and the exit status for an expected error; None for a defect of ours."""
    import weightstream as ws

    if isinstance(error, Failure):
        return str(error), error.hint, error.exit_status
    if isinstance(error, ws.ConfigError):
        return str(error), None, EXIT_USAGE
    if isinstance(error, (ws.WeightstreamError, OSError, MemoryError)):
        return str(error) or type(error).__name__, _hint(error), EXIT_FAILED
    return None


def _hint(error: Exception) -> str | None:
    import weightstream as ws

    if isinstance(error, ws.TruncatedError):
        return "the file is shorter than its header says: an interrupted copy or download? Fetch it again"
    if isinstance(error, ws.SourceChangedError):
        return "the file was written to while it was read; load it again when the writer is done"
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return "raise the limit of open files: ulimit -n 4096"
    if isinstance(error, MemoryError):
        return "load fewer tensors (--names), or drop them as they come (without --keep)"
    return None


def debug_option(command: Command) -> Command:
    """Add `--debug`: show the traceback of an error."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
        ctx.meta[_DEBUG] = value

    option = click.option(
        "--debug", is_flag=True, expose_value=False, callback=remember, help="Show the traceback of an error."
    )
    return option(command)


def locations_argument(command: Command) -> Command:
    """Add LOCATION...: the function gets `location`, one or more strings."""
    # Paths complete in the shell; whether one exists is for the library to say, in its own words.
    argument = click.argument("location", nargs=-1, required=True, metavar="LOCATION...", type=click.Path())
    return argument(command)


def one_or_many(locations: Sequence[str]) -> str | list[str]:
    """Return the location that `ws.open` and `ws.stream` take."""
    return locations[0] if len(locations) == 1 else list(locations)


def name_filter(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a predicate that is true for names that match one of the globs, case-sensitively; None without globs."""
    if not patterns:
        return None
    matches = re.compile("|".join(translate(pattern) for pattern in patterns)).match
    return lambda name: matches(name) is not None
