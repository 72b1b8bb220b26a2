"""Loading into modules on a GPU: straight to the memory of parameters, and as parameters of a module on meta."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import weightstream as ws

LAYERS, WIDTH = 8, 2048  # 8 * 16 MiB


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tensors = {f"{i}.weight": torch.randn(WIDTH, WIDTH, generator=generator) for i in range(LAYERS)}
    tensors |= {f"{i}.bias": torch.randn(WIDTH, generator=generator) for i in range(LAYERS)}
    path = tmp_path_factory.mktemp("modules") / "model.safetensors"
    save_file(tensors, path)
    return path, tensors


def layers(device: str, dtype: torch.dtype = torch.float32) -> nn.Sequential:
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, device=device, dtype=dtype) for _ in range(LAYERS)])


def differing(module: nn.Module, tensors: dict[str, torch.Tensor]) -> list[str]:
    state = module.state_dict()
    return [name for name, tensor in tensors.items() if not torch.equal(state[name].cpu(), tensor)]


def test_in_place_without_more_memory(cuda: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    module = layers(cuda)
    at = [parameter.data_ptr() for parameter in module.parameters()]
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ws.load_into(module, saved[0])
    assert torch.cuda.max_memory_allocated() - before < 4 << 20
    assert differing(module, saved[1]) == []
    assert [parameter.data_ptr() for parameter in module.parameters()] == at


def test_cast_on_the_device(cuda: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    module = layers(cuda, torch.float16)
    ws.load_into(module, saved[0])
    assert differing(module, {name: tensor.half() for name, tensor in saved[1].items()}) == []


@pytest.mark.parametrize("begin", ["meta", "cpu"])
def test_to_the_device(cuda: str, begin: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    module = layers(begin)
    parameters = list(module.parameters())
    ws.load_into(module, saved[0], device=cuda)
    assert {str(parameter.device) for parameter in module.parameters()} == {cuda}
    assert differing(module, saved[1]) == []
    if begin == "cpu":
        assert all(a is b for a, b in zip(parameters, module.parameters(), strict=True))
