"""What the tests of remote storage share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fetching import clean_environment, model

from servers.s3 import S3Server


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """No credentials, endpoints and certificates of whoever runs the tests, and an empty home."""
    with clean_environment(tmp_path) as patch:
        yield patch


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """torch computes in one thread: small models gain nothing by more, which wait for each other in a loop."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def stored_in_s3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bucket "models" has a model "llm", which this returns, and a key of odd characters."""
    folder = tmp_path_factory.mktemp("model")
    files = model(folder)
    s3.upload(folder, "models", "llm")
    s3.put("models", "llm/", b"")
    s3.put("models", "odd/ü +%?&=.safetensors", b"odd")
    return files
