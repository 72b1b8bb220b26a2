"""`weightstream inspect`: what is in a checkpoint, from its headers alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .._format import bytes_text, count_text, printable, table
from ._common import Failure, debug_option, locations_argument, name_filter, one_or_many

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .. import Checkpoint, TensorInfo


@click.command()
@locations_argument
@click.option("--names", metavar="GLOB", multiple=True, help="Show only tensors that match. May be repeated.")
@click.option(
    "--sort",
    type=click.Choice(["name", "size", "file"]),
    default="file",
    show_default=True,
    help="By name, by size (largest first), or as they lie in the file.",
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="List at most N tensors; totals count all.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@debug_option
def inspect(location: tuple[str, ...], names: tuple[str, ...], sort: str, limit: int | None, as_json: bool) -> None:
    """List the tensors of a checkpoint.

    Shows name, dtype, shape and size of every tensor in LOCATION (a file, several, a directory, a quoted glob), and
    totals. Reads headers only, so it takes milliseconds whatever the size of the model.

    \b
    Examples:
      weightstream inspect ~/models/llama
      weightstream inspect model.safetensors --sort size --limit 10
      weightstream inspect model.safetensors --names '*.bias' --json
    """  # noqa: D301
    import weightstream as ws

    with ws.open(one_or_many(location)) as checkpoint:
        wanted = name_filter(names)
        tensors = [info for name, info in checkpoint.items() if wanted is None or wanted(name)]
        if names and not tensors:
            raise Failure(f"no tensor matches {' or '.join(names)}", "leave out --names to list all")
        if sort == "name":
            tensors.sort(key=lambda info: info.name)
        elif sort == "size":
            tensors.sort(key=lambda info: (-info.nbytes, info.name))
        shown = tensors[:limit]
        if as_json:
            click.echo(json.dumps(_as_dict(checkpoint, tensors, shown), indent=2))
        else:
            click.echo("\n".join(_report(checkpoint, tensors, shown)))


def _by_dtype(tensors: Sequence[TensorInfo]) -> dict[str, tuple[int, int]]:
    """For each dtype the number of tensors and of bytes, most bytes first."""
    totals: dict[str, tuple[int, int]] = {}
    for info in tensors:
        count, size = totals.get(info.dtype, (0, 0))
        totals[info.dtype] = (count + 1, size + info.nbytes)
    return dict(sorted(totals.items(), key=lambda item: -item[1][1]))


def _as_dict(checkpoint: Checkpoint, tensors: Sequence[TensorInfo], shown: Sequence[TensorInfo]) -> dict[str, Any]:
    return {
        "tensor_count": len(tensors),
        "nbytes": sum(info.nbytes for info in tensors),
        "dtypes": {dtype: {"tensors": n, "nbytes": size} for dtype, (n, size) in _by_dtype(tensors).items()},
        "metadata": dict(checkpoint.metadata),
        "sources": [
            {"path": s.path, "size": s.size, "tensors": s.tensors, "header_bytes": s.header_bytes}
            for s in checkpoint.sources
        ],
        "tensors": [
            {
                "name": info.name,
                "dtype": info.dtype,
                "shape": list(info.shape),
                "nbytes": info.nbytes,
                "source": info.source,
                "range": list(info.range),
            }
            for info in shown
        ],
    }


def _report(checkpoint: Checkpoint, tensors: Sequence[TensorInfo], shown: Sequence[TensorInfo]) -> Iterator[str]:
    sharded = len(checkpoint.sources) > 1
    if shown:
        header = ["name", "dtype", "shape", "size"] + (["shard"] if sharded else [])
        rows = (
            [printable(info.name), info.dtype, str(list(info.shape)), bytes_text(info.nbytes)]
            + ([printable(Path(info.source).name)] if sharded else [])
            for info in shown
        )
        yield from table(header, rows, right=[3])
    if len(shown) < len(tensors):
        yield f"... and {len(tensors) - len(shown):,} more"
    if shown or len(shown) < len(tensors):
        yield ""
    total = sum(info.nbytes for info in tensors)
    files = count_text(len(checkpoint.sources), "file")
    yield f"{count_text(len(tensors), 'tensor')}, {bytes_text(total)} in {files}"
    for dtype, (count, size) in _by_dtype(tensors).items():
        yield f"  {dtype}: {count_text(count, 'tensor')}, {bytes_text(size)}"
    if checkpoint.metadata:
        yield "metadata:"
        for key, value in checkpoint.metadata.items():
            yield f"  {printable(key)}: {printable(value)}"
