"""What the tests of remote storage share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fetching import clean_environment, model

from servers.s3 import S3Server


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """No credentials, endpoints and certificates of whoever runs the tests, and an empty home."""
    with clean_environment(tmp_path) as patch:
        yield patch


@pytest.fixture(scope="session")
def stored_in_s3(s3: S3Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bucket "models" has a model "llm", which this returns, and a key of odd characters."""
    folder = tmp_path_factory.mktemp("model")
    files = model(folder)
    s3.upload(folder, "models", "llm")
    s3.put("models", "llm/", b"")
    s3.put("models", "odd/ü +%?&=.safetensors", b"odd")
    return files
