"""`weightstream doctor`: says what works, what does not, and what to do about it."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from typing import TYPE_CHECKING, NoReturn

import click

from .._format import printable
from ._common import EXIT_FAILED, EXIT_INTERRUPTED, debug_option
from .pull import printable_location

if TYPE_CHECKING:
    from .._doctor import Step


@click.command()
@click.argument("location", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@debug_option
@click.pass_context
def doctor(ctx: click.Context, location: str, as_json: bool) -> None:
    """Examine a location and this machine, step by step.

    Says how LOCATION is understood, whether it can be reached, listed and read, how fast, by which reader and why; and
    what this machine allows. Takes half a minute at most, and reads no more than it needs for that. No secret is shown.

    \b
    Exit status:
      0    everything works, if perhaps not at its best
      1    a step failed: loading will fail, too

    \b
    Examples:
      weightstream doctor s3://models/llama
      weightstream doctor ~/models/llama --json
    """  # noqa: D301
    from .._doctor import Doctor

    examination = Doctor(location)
    done: list[Step] = []
    status = EXIT_INTERRUPTED
    try:
        for step in examination.steps():
            done.append(step)
            if not as_json:
                click.echo(_text(step))
        ok = all(step.status != "fail" for step in done)
        if as_json:
            report = {"location": printable_location(location), "ok": ok, "steps": [step.as_dict() for step in done]}
            click.echo(json.dumps(report, indent=2))
        status = 0 if ok else EXIT_FAILED
    finally:
        if examination.abandoned:
            if status == EXIT_INTERRUPTED:
                click.echo("interrupted", err=True)
            _end(status)
    if status:
        ctx.exit(status)


def _end(status: int) -> NoReturn:
    """Ends the process: a thread that hangs in a call would bring it down in an ugly way, or not let it end."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _text(step: Step) -> str:
    mark = click.style(f"{step.status:<5}", fg={"ok": "green", "warn": "yellow", "fail": "red"}[step.status])
    indent = " " * 18
    lines = textwrap.wrap(printable(step.summary), 100, break_long_words=False, break_on_hyphens=False) or [""]
    text = f"{mark} {step.name:<12}" + ("\n" + indent).join(lines)
    if step.advice:
        text += f"\n{indent}-> {printable(step.advice)}"
    return text
