"""The command line: run, report, data, list."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import files, imports, report, runner, startup
from benchmarks.caches import CacheError
from benchmarks.contenders import CONTENDERS
from benchmarks.layouts import LLAMA_8B, layouts
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import ServerError

HERE = Path(__file__).resolve().parent
ALL = (*(name for name, scenario in SCENARIOS.items() if not scenario.device), imports.IMPORT_TIME)
GPU = (*(name for name, scenario in SCENARIOS.items() if scenario.device), startup.STARTUP)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=sys.modules["benchmarks"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    run = commands.add_parser("run", help="measure scenarios")
    run.add_argument(
        "scenarios",
        nargs="+",
        choices=(*ALL, *GPU, "all", "gpu"),
        metavar="SCENARIO",
        help=f"{', '.join(ALL)}, all; {', '.join(GPU)}, gpu",
    )
    run.add_argument(
        "--rounds", type=int, default=None, help="how often each contender runs (default 5; 1 with --tiny)"
    )
    run.add_argument("--contenders", type=_names, help="comma-separated names instead of the scenario's own")
    run.add_argument("--baseline", help="the contender to compare with")
    run.add_argument(
        "--cache", choices=("cold", "warm"), help="another state of the page cache than the scenario's own"
    )
    run.add_argument(
        "--read-ahead",
        type=int,
        metavar="KIB",
        help="how far the disk reads ahead into the page cache meanwhile (default: as it is set; Linux's own is 128)",
    )
    run.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not check the bytes after the first round"
    )
    run.add_argument("--device", help="where the GPU scenarios load to (default cuda:0; cpu tries the harness)")
    run.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing more after so many")
    run.add_argument("--results", type=Path, default=HERE / "results", help="folder for the results")
    run.add_argument("--no-save", dest="save", action="store_false", help="only print the table")

    data = commands.add_parser("data", help="write the checkpoints and stop")
    data.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of {', '.join(layouts(tiny=False))}; all but the GPUs' without"
    )

    for command in (run, data):
        command.add_argument(
            "--data", type=Path, default=HERE / "data", help="folder of the checkpoints (default benchmarks/data)"
        )
        command.add_argument(
            "--layers",
            type=int,
            default=LLAMA_8B.layers,
            help="of the Llama 8B in the GPU scenarios' file (default 32)",
        )
        command.add_argument(
            "--tiny", action="store_true", help="tiny checkpoints, to try the harness; nothing is saved"
        )

    shown = commands.add_parser("report", help="render results as Markdown")
    shown.add_argument("files", nargs="*", type=Path, help="results; without, the newest of each scenario")
    shown.add_argument("--results", type=Path, default=HERE / "results", help="folder of the results")
    shown.add_argument("--output", type=Path, help="write to this file rather than to standard output")

    commands.add_parser("list", help="show the scenarios and the contenders")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    settings = runner.Settings(
        data=arguments.data,
        rounds=arguments.rounds or (1 if arguments.tiny else 5),
        contenders=arguments.contenders,
        baseline=arguments.baseline,
        cache=arguments.cache,
        verify=arguments.verify,
        tiny=arguments.tiny,
        device=arguments.device,
        layers=arguments.layers,
        read_ahead=arguments.read_ahead,
        deadline=time.monotonic() + arguments.seconds,
    )
    settings.data.mkdir(parents=True, exist_ok=True)
    status = 0
    groups = {"all": ALL, "gpu": GPU}
    for name in (name for wanted in arguments.scenarios for name in groups.get(wanted, (wanted,))):
        print(f"{name}:", flush=True)
        try:
            result = runner.run(name, settings)
        except (ValueError, OSError, CacheError, ServerError) as error:
            print(f"  {name} was not run: {error}", file=sys.stderr)
            status = 1
            continue
        print("\n" + report.render(result), flush=True)
        if arguments.save and not arguments.tiny:
            print(f"saved as {report.save(result, arguments.results)}\n", flush=True)
        if result["failed"] or not result["contenders"]:
            status = 1
    return status


def _data(arguments: argparse.Namespace) -> int:
    known = layouts(tiny=arguments.tiny, layers=arguments.layers)
    for name in arguments.names or (name for name in known if name != SCENARIOS["gpu-warm"].data):
        made = files.make(known[name], arguments.data)
        print(f"{name}: {made.nbytes / 1e9:.2f} GB, {made.tensors} tensors in {len(made.files)} files")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    paths = arguments.files or report.latest(arguments.results)
    if not paths:
        print("there are no results yet", file=sys.stderr)
        return 1
    text = "\n".join(report.render(json.loads(path.read_text())) for path in paths)
    if arguments.output:
        arguments.output.write_text(text)
    else:
        print(text)
    return 0


def _list() -> int:
    print("scenarios:")
    for scenario in SCENARIOS.values():
        print(f"  {scenario.name:24} {scenario.question}")
    print(f"  {imports.IMPORT_TIME:24} {imports.QUESTION}")
    print(f"  {startup.STARTUP:24} {startup.QUESTION}")
    print("contenders:")
    for contender in CONTENDERS.values():
        missing = contender.missing()
        print(f"  {contender.name:24} {contender.what}{f' - {missing}' if missing else ''}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # servers and workers end with it
    match parsed.command:
        case "run":
            return _run(parsed)
        case "data":
            return _data(parsed)
        case "report":
            return _report(parsed)
        case _:
            return _list()
