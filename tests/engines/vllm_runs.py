"""Running vLLM: what a test asks for, the environment, and what comes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers.s3 import READER, REGION, S3Server

HERE = Path(__file__).parent
LOADED = "weightstream loaded"  # of the line at the end of each load
PROMPTS = [[1, 2, 3, 4, 5], [200, 100]]


@dataclass(frozen=True)
class Models:
    """Two Llamas; of the first the same weights in several files, too, also beside a file that does not count.

    All of them are in S3 as well.
    """

    one: Path
    sharded: Path
    twice: Path
    other: Path
    in_s3: str


@dataclass(frozen=True)
class Run:
    """What came of one program: of each case the tokens by reload, and what was logged."""

    results: list[dict[str, Any]]
    log: str


def case(model: object, load_format: str, extra: dict[str, Any] | None = None, reload: Sequence[object] = ()) -> Any:
    """One case for `generate`."""
    return {"model": str(model), "load_format": load_format, "extra": extra or {}, "reload": [*map(str, reload)]}


def engine_environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment of an engine: no network, no GPU, little memory, and no settings of whoever runs the tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "WEIGHTSTREAM_", "RUNAI_"))}
    return kept | {
        "HF_HUB_OFFLINE": "1",
        "HOME": str(home),
        "VLLM_CACHE_ROOT": str(home / "vllm"),  # configurations of models in object stores are kept there
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        **variables,
    }


def reaching(server: S3Server) -> dict[str, str]:
    """The variables that lead to the S3 server, as its own tools take them."""
    return {**READER.environment, "AWS_ENDPOINT_URL": server.endpoint, "AWS_DEFAULT_REGION": REGION}


def generate(home: Path, *cases: Any, without: Sequence[str] = (), **variables: str) -> Run:
    """Runs cases in one process of vLLM, in which the modules `without` are as if they were not installed."""
    results = home / "results.json"
    request = json.dumps({"without": without, "prompts": PROMPTS, "cases": cases})
    program = subprocess.run(
        [sys.executable, HERE / "generate.py", request, results],
        env=engine_environment(home, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=800,
    )
    print(program.stdout)  # shown where a test fails
    lines = results.read_text().splitlines() if results.exists() else []
    assert (program.returncode, len(lines)) == (0, len(cases))
    return Run([json.loads(line) for line in lines], program.stdout)
