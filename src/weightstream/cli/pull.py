"""`weightstream pull`: copies the files of a model into a folder."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .._format import bytes_text, count_text, printable, seconds_text
from ._common import debug_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._pull import Pulled


@click.command()
@click.argument("source", type=click.Path())
@click.argument("dest", type=click.Path())
@click.option("--include", metavar="GLOB", multiple=True, help="Only files that match. May be repeated.")
@click.option("--exclude", metavar="GLOB", multiple=True, help="No files that match. May be repeated.")
@click.option("--force", is_flag=True, help="Pull also what is there already, and from its beginning.")
@click.option("--memory-limit", metavar="SIZE", help="Host memory in flight, such as 512MiB or 2GiB.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Reads in flight.  [default: adaptive]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-progress", is_flag=True, help="No progress bar, as WEIGHTSTREAM_PROGRESS=0 does.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def pull(
    source: str,
    dest: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    as_json: bool,
    no_progress: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Copy all files of a model into the folder DEST.

    Weights, index, tokenizer, configuration, code: every file below SOURCE, which is a directory, a file, a glob, or a
    URL (s3://, gs://, az://, https://, hf://). Files that are there already are skipped, and an interrupted pull goes
    on where it was. GLOBs are matched with the whole path below SOURCE; "*" matches "/" too.

    \b
    Examples:
      weightstream pull hf://Qwen/Qwen3-0.6B models/qwen3
      weightstream pull s3://models/llama /scratch/llama --exclude '*.bin'
      weightstream pull gs://models/llama /scratch/llama --include '*.json' --include '*.safetensors' --json
    """  # noqa: D301
    from .. import _config, _progress
    from .._pull import pull as run

    progress = _config.show_progress(False if no_progress or quiet else None, default=True)
    if progress:
        _progress.prepare()
    pulled = run(source, dest, include=include, exclude=exclude, progress=progress, **settings)
    if as_json:
        where = {"source": printable_location(source), "destination": dest}
        click.echo(json.dumps({**where, **pulled.as_dict()}, indent=2))
    elif not quiet:
        click.echo("\n".join(_summary(pulled, dest)))


def printable_location(location: str) -> str:
    """Return a location without what may be secret in it."""
    from ..sources.remote import printable as without_secrets

    return without_secrets(location) if "://" in location else location


def _summary(pulled: Pulled, dest: str) -> Iterator[str]:
    rate = f": {pulled.gigabytes_per_second:.2f} GB/s" if pulled.bytes else ""
    files, size = count_text(pulled.files, "file"), bytes_text(pulled.bytes)
    yield f"{files}, {size} in {seconds_text(pulled.seconds)}{rate}"
    if pulled.kept_bytes:
        yield f"{bytes_text(pulled.kept_bytes)} were there from an earlier attempt"
    if pulled.skipped:
        yield f"{count_text(pulled.skipped, 'file')}, {bytes_text(pulled.skipped_bytes)} skipped: complete already"
    if pulled.retries:
        yield count_text(pulled.retries, "read") + " tried again"
    yield f"in {printable(dest)}"
