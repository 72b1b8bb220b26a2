"""The libraries that make reads and connections go wrong, compiled once a run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def read_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, see read_faults.c."""
    return compiled("read_faults", tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def net_faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library to preload, see net_faults.c."""
    return compiled("net_faults", tmp_path_factory.mktemp("faults"))


def compiled(name: str, folder: Path) -> Path:
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip("no C compiler")
    library = folder / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    flags = ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, *flags, source, "-o", library, "-ldl", "-pthread"], check=True)
    return library
