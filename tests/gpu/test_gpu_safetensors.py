"""weightstream.safetensors on a real GPU, beside the safetensors package."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch

from weightstream.safetensors import safe_open
from weightstream.safetensors import torch as drop_in


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    tensors = {f"layers.{i}.weight": torch.randn(1024, 1024, generator=generator).bfloat16() for i in range(20)}
    tensors |= {f"layers.{i}.norm": torch.randn(1024, generator=generator) for i in range(20)}
    tensors |= {"experts": torch.randn(4, 512, 512, generator=generator), "scalar": torch.tensor(3.5)}
    path = tmp_path / "m.safetensors"
    safetensors.torch.save_file(tensors, path)
    return path, tensors


@pytest.mark.parametrize("order", ["keys", "offset_keys"])
def test_a_walk(cuda: str, saved: tuple[Path, dict[str, torch.Tensor]], order: str) -> None:
    path, tensors = saved
    with safe_open(path, "pt", device=cuda) as ours, safetensors.safe_open(path, "pt", device=cuda) as theirs:
        for name in getattr(ours, order)():
            tensor, expected = ours.get_tensor(name), theirs.get_tensor(name)
            assert (tensor.device, tensor.dtype) == (expected.device, expected.dtype)
            assert torch.equal(tensor, expected)
        assert ours.stats.read_ahead == len(tensors) - 1
        assert ours.stats.mapped == 0


def test_parts_and_everything(cuda: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = saved
    with safe_open(path, "pt", device=cuda) as handle:
        for name, index in (("layers.3.weight", slice(10, 20)), ("experts", (slice(None), slice(128, 256)))):
            part = handle.get_slice(name)[index]
            assert part.device == torch.device(cuda)
            assert torch.equal(part.cpu(), tensors[name][index])
    loaded = drop_in.load_file(path, device=cuda)
    assert sorted(loaded) == sorted(tensors)
    assert all(torch.equal(loaded[name].cpu(), tensors[name]) for name in tensors)


def test_prefetch(cuda: str, saved: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, tensors = saved
    with (
        safe_open(path, "pt") as handle,
        handle.prefetch({**dict.fromkeys(tensors), "layers.7.weight": slice(100, 200)}, device=cuda) as loader,
    ):
        rows = loader.take("layers.7.weight")
        assert torch.equal(rows.cpu(), tensors["layers.7.weight"][100:200])
        rest = dict(loader)
    assert sorted([*rest, "layers.7.weight"]) == sorted(tensors)
    for name, tensor in rest.items():
        assert tensor.device == torch.device(cuda)
        assert torch.equal(tensor.cpu(), tensors[name])
