"""What the tests of engines share. They run by `make engines`, in an environment that has the engines."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from llama import write_llama
from vllm_runs import Models

from servers.s3 import S3Server

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what has no engine to run; an engine takes its time to start."""
    absent = pytest.mark.skip("vLLM is not installed here: make engines")
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(900))
            if find_spec("vllm") is None:
                item.add_marker(absent)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Models:
    """Models on the disk and in S3."""
    folder = tmp_path_factory.mktemp("models")
    made = Models(
        one=write_llama(folder / "one", 1),
        sharded=write_llama(folder / "sharded", 1, shards=3),
        twice=write_llama(folder / "twice", 1, shards=2, twice=True),
        other=write_llama(folder / "other", 2),
        in_s3="s3://models/llama",
    )
    s3.upload(folder, "models", "llama")
    return made
