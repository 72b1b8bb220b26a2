"""Uses locations in every way, and prints all that a person or a log could get to see. Run as a program."""

from __future__ import annotations

import json
import logging
import pickle
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import click.testing

import weightstream as ws
from weightstream.cli import main

SDKS = (
    "azure",
    "boto3",
    "botocore",
    "google",
    "httpcore",
    "httpcore2",
    "httpx",
    "httpx2",
    "huggingface_hub",
    "urllib3",
)


def show(thing: Any) -> None:
    print(repr(thing), str(thing))
    if isinstance(thing, BaseException):
        traceback.print_exception(thing, file=sys.stdout)
        print(thing.args, vars(thing), pickle.loads(pickle.dumps(thing)))


def use(location: str, options: dict[str, Any]) -> None:
    with ws.open(location, framework="numpy", storage_options=options) as checkpoint:
        first = next(iter(checkpoint))
        for thing in (checkpoint, checkpoint.paths, *checkpoint.values(), *checkpoint.sources):
            show(thing)
        show(checkpoint.get_slice(first))
        show(len(checkpoint.get_tensor(first)))
    with ws.stream(location, framework="numpy", progress=True, storage_options=options) as stream:
        show(stream)
        show(len(dict(stream)))
        for thing in (stream.stats, stream.stats.as_dict(), stream):
            show(thing)


def command(location: str, options: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for words in (["inspect"], ["load", "--framework=numpy"], ["pull"], ["doctor"]):
            arguments = [*words, "--debug", location, *([str(Path(folder) / "to")] if words == ["pull"] else [])]
            variables = {"WEIGHTSTREAM_STORAGE_OPTIONS": json.dumps(options)}
            result = click.testing.CliRunner().invoke(main, arguments, env=variables)
            print(words[0], result.exit_code, result.output)
            if result.exception is not None:
                show(result.exception)


def run(way: str, location: str, options: dict[str, Any]) -> None:
    try:
        (use if way == "python" else command)(location, options)
    except ws.WeightstreamError as error:
        show(error)
        print(f"=> {type(error).__name__}")
    else:
        print("=> well")


if __name__ == "__main__":
    logging.basicConfig(level=1, stream=sys.stdout, format="%(name)s %(levelname)s %(message)s")
    for sdk in SDKS:
        logging.getLogger(sdk).setLevel(logging.WARNING)  # what they say below that is theirs, and documented
    for name, *what in json.loads(Path(sys.argv[1]).read_text()):
        print(f"### {name}", flush=True)
        run(*what)
