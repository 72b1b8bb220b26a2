"""`weightstream load`: streams a checkpoint and says how fast that went."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .._format import bytes_text, count_text, printable, seconds_text
from ._common import Failure, debug_option, locations_argument, name_filter, one_or_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .. import StreamStats


@click.command()
@locations_argument
@click.option("--device", metavar="DEVICE", help="Where the tensors go: cpu, cuda:0, ...  [default: cpu]")
@click.option("--framework", type=click.Choice(["pt", "numpy"]), help="Whose tensors to make.  [default: pt]")
@click.option("--names", metavar="GLOB", multiple=True, help="Load only tensors that match. May be repeated.")
@click.option("--order", type=click.Choice(["arrival", "file"]), help="The order of tensors.  [default: arrival]")
@click.option("--memory-limit", metavar="SIZE", help="Host memory in flight, such as 512MiB or 2GiB.")
@click.option("--device-limit", metavar="SIZE", help="Device memory in flight.")
@click.option("--dtype", metavar="DTYPE", help="Cast floating-point tensors, such as to bfloat16.")
@click.option("--trace", metavar="FILE", help="Write what was done when, for https://ui.perfetto.dev.")
@click.option("--concurrency", type=click.IntRange(min=1), metavar="N", help="Reads in flight.  [default: adaptive]")
@click.option(
    "--backend", type=click.Choice(["auto", "uring", "pread", "mmap", "gds"]), help="The reader.  [default: auto]"
)
@click.option("--keep", is_flag=True, help="Hold all tensors until the end, instead of dropping each as it comes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--no-progress", is_flag=True, help="No progress bar, as WEIGHTSTREAM_PROGRESS=0 does.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@debug_option
def load(
    location: tuple[str, ...],
    names: tuple[str, ...],
    keep: bool,
    as_json: bool,
    no_progress: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Stream a checkpoint and report how fast that went.

    Reads every tensor of LOCATION (a file, several, a directory, a quoted glob) the way a program would and drops it
    as soon as it is there. An option that is not given falls back to its WEIGHTSTREAM_* environment variable.

    \b
    Examples:
      weightstream load ~/models/llama
      weightstream load model.safetensors --names 'model.layers.0.*' --json
      weightstream load 'shards/*.safetensors' --memory-limit 512MiB --order file
    """  # noqa: D301
    import weightstream as ws

    from .. import _config, _progress, frameworks

    progress = _config.show_progress(False if no_progress or quiet else None, default=True)
    settings |= {"names": name_filter(names), "progress": progress}
    resolved = _config.resolve(**settings)
    # Importing torch, and what draws the bar, is not to count as loading time.
    try:
        frameworks.get(resolved.framework, resolved.device)
    except ws.ConfigError as error:
        error.message = error.message.replace("framework='numpy' works", "--framework numpy works")
        raise
    if resolved.progress:
        _progress.prepare()
    kept = []
    with ws.stream(one_or_many(location), **settings) as stream:
        if names and len(stream) == 0:
            raise Failure(
                f"no tensor matches {' or '.join(names)}", f"list the names with: weightstream inspect {location[0]}"
            )
        for _, tensor in stream:
            if keep:
                kept.append(tensor)
        stats = stream.stats
    if as_json:
        click.echo(json.dumps({"locations": list(location), **stats.as_dict()}, indent=2))
    elif not quiet:
        click.echo("\n".join(_summary(stats)))


def _summary(stats: StreamStats) -> Iterator[str]:
    rate = f"{stats.gigabytes_per_second:.2f} GB/s"
    yield f"{count_text(stats.tensors, 'tensor')}, {bytes_text(stats.bytes)} in {seconds_text(stats.seconds)}: {rate}"
    if stats.tensors:
        yield f"first tensor after {seconds_text(stats.first_tensor_seconds)}"
    waited = f"for storage {seconds_text(stats.wait_storage_seconds)}"
    if stats.wait_device_seconds > 0:
        waited += f", for the device {seconds_text(stats.wait_device_seconds)}"
    yield f"waited {waited}, for the consumer {seconds_text(stats.wait_consumer_seconds)}"
    yield f"read {bytes_text(stats.bytes_read)} in {count_text(stats.reads, 'read')}, {stats.retries} retried"
    yield f"host memory in flight at most {bytes_text(stats.peak_host_bytes)}"
    if stats.peak_device_bytes > 0:
        yield f"device memory in flight at most {bytes_text(stats.peak_device_bytes)}"
    for reader, count in stats.readers.items():
        yield f"reader {reader}: {bytes_text(count)}"
    for path, reason in stats.reasons.items():
        yield f"  {printable(path)}: {reason}"
