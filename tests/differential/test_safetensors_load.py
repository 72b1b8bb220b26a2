"""load_file, load_model and load, of torch and numpy, beside the safetensors package's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

import weightstream as ws
import weightstream.safetensors
import weightstream.safetensors.numpy
import weightstream.safetensors.torch
from differential.handles import outcome

Saved = tuple[Path, dict[str, torch.Tensor]]
TORCH = (safetensors.torch, weightstream.safetensors.torch)
NUMPY = (safetensors.numpy, weightstream.safetensors.numpy)
BACKENDS = ["mmap", "pread"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_load_file(saved: Saved, backend: str) -> None:
    theirs, ours = (outcome(lambda m=module: m.load_file(saved[0], backend=backend)) for module in TORCH)
    assert ours == theirs
    assert outcome(lambda: TORCH[1].load_file(str(saved[0]), "cpu")) == theirs


@pytest.mark.parametrize("backend", BACKENDS)
def test_load_file_of_numpy(tmp_path: Path, backend: str) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file({"a": torch.arange(12).reshape(3, 4), "b": torch.ones(2), "e": torch.zeros(0, 3)}, path)
    theirs, ours = (outcome(lambda m=module: m.load_file(path, backend=backend)) for module in NUMPY)
    assert ours == theirs


@pytest.mark.parametrize("module", [TORCH, NUMPY], ids=["torch", "numpy"])
def test_what_saves_and_what_takes_bytes_is_theirs(module: Any) -> None:
    theirs, ours = module
    for name in ("save", "save_file", "load"):
        assert getattr(ours, name) is getattr(theirs, name)


def test_names_and_signatures() -> None:
    for theirs, ours in (TORCH, NUMPY):
        for name in ours.__all__:
            parameters = [
                [(p.name, p.kind, p.default) for p in inspect.signature(getattr(module, name)).parameters.values()]
                for module in (theirs, ours)
            ]
            assert parameters[0] == parameters[1], name
    for name in ("SafetensorError", "serialize", "serialize_file", "deserialize"):
        assert getattr(weightstream.safetensors, name) is getattr(safetensors, name)


@pytest.mark.parametrize("module", TORCH)
def test_errors(tmp_path: Path, module: Any) -> None:
    with pytest.raises(FileNotFoundError):
        module.load_file(tmp_path / "gone")
    (tmp_path / "bad").write_bytes(b"12345678")
    with pytest.raises(safetensors.SafetensorError):
        module.load_file(tmp_path / "bad")
    with pytest.raises(safetensors.SafetensorError, match='backend "x" is invalid'):
        module.load_file(tmp_path / "bad", backend="x")


class Tied(nn.Module):
    """Two names of one tensor, as tied embeddings are."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 3, bias=False)
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 3, bias=False)
        self.head.weight = self.embed.weight


class More(Tied):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(2, 2)


class Less(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)


class Untied(Tied):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3, bias=False)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("kind", [Tied, More, Less, Untied])
def test_load_model(tmp_path: Path, kind: Callable[[], nn.Module], strict: bool) -> None:
    path = str(tmp_path / "m.safetensors")
    torch.manual_seed(0)
    safetensors.torch.save_model(Tied(), path)
    outcomes, states = [], []
    for module in TORCH:
        torch.manual_seed(1)
        model = kind()
        outcomes.append(outcome(lambda module=module, model=model: module.load_model(model, path, strict)))
        states.append(outcome(model.state_dict))
    assert outcomes[1] == outcomes[0]
    assert states[1] == states[0]


def test_a_model_on_a_device_that_is_not_there(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    path = str(tmp_path / "m.safetensors")
    safetensors.torch.save_model(Tied(), path)
    with pytest.raises(ws.DeviceError):
        weightstream.safetensors.torch.load_model(Tied(), path, device="cuda:0")
