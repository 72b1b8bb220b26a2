"""Reloads in place, through the fake driver: the caller's own tensors, and which of them cannot hold the bytes."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

import weightstream as ws
from checkpoints import DTYPES, Raw, assert_same, bytes_of, raw, write_file
from fake_gpu import FakeGpu, fake_gpu

MIB = 1 << 20


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:
        yield made
        gc.collect()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Raw]]:
    """13 MiB: large tensors, small ones of every dtype between them, and some without elements."""
    tensors = {"large.0": raw("BF16", (MIB, 3), 1), "empty": raw("F32", (0, 7), 2), "scalar": raw("I64", (), 3)}
    for i, dtype in enumerate(DTYPES):
        tensors[f"small.{dtype}"] = raw(dtype, (4, 64), 10 + i)
    tensors["large.1"] = raw("F32", (3, MIB // 4), 4)
    for i in range(40):
        tensors[f"norm.{i}"] = raw("F16", (512,), 50 + i)
    tensors["large.2"] = raw("U8", (4 * MIB + 1,), 5)
    path = tmp_path_factory.mktemp("device") / "model.safetensors"
    return write_file(path, tensors), tensors


def _like(tensor: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    return tuple(tensor.shape), tensor.dtype


def _without_memory(length: int) -> torch.Tensor:
    tensor = torch.zeros(length, dtype=torch.float16)
    tensor.untyped_storage().resize_(0)
    return tensor


class TestInto:
    def test_brings_the_bytes_where_the_caller_wants_them(
        self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]
    ) -> None:
        path, tensors = model
        gpu.kernel_us = 300
        mine = {name: gpu.empty(*_like(tensor)) for name, tensor in ws.load(path).items()}
        at = {name: tensor.data_ptr() for name, tensor in mine.items()}
        allocations = gpu.allocations
        given = ws.load(path, into=mine)
        assert_same(mine, tensors)
        assert {name: tensor.data_ptr() for name, tensor in given.items()} == at
        assert gpu.allocations <= allocations + 1  # the empty one is nobody's

    def test_some_of_it(self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
        path, tensors = model
        mine = {name: torch.zeros(tensors[name].shape, dtype=torch.float16) for name in ("norm.1", "norm.7")}
        with ws.stream(path, into=mine) as stream:
            assert sorted(name for name, _ in stream) == sorted(mine)
        assert_same(mine, {name: tensors[name] for name in mine})

    @pytest.mark.parametrize(
        ("tensor", "what"),
        [
            (torch.zeros(512), "float32"),
            (torch.zeros(511, dtype=torch.float16), "511"),
            (torch.zeros((512, 2), dtype=torch.float16)[:, 0], "not contiguous"),
            (torch.zeros(512, dtype=torch.float16, device="meta"), "on meta"),
            (torch.zeros(512, dtype=torch.float16).to_sparse(), r"layout torch\.sparse_coo"),
            (torch._neg_view(torch.zeros(512, dtype=torch.float16)), "conjugates or negates"),
            (_without_memory(512), "no memory"),
            ("text", r"not a torch\.Tensor"),
        ],
    )
    def test_tensors_that_cannot_hold_it(
        self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]], tensor: torch.Tensor, what: str
    ) -> None:
        with pytest.raises(ws.ConfigError, match=what) as caught:
            ws.load(model[0], into={"norm.1": tensor}, device="cpu")
        assert "norm.1" in str(caught.value)
        with pytest.raises(ws.ConfigError, match=r"norm\.2"):
            ws.load(model[0], into={"norm.1": torch.zeros(512, dtype=torch.float16)}, names=["norm.1", "norm.2"])

    def test_conjugated_views(self, gpu: FakeGpu, tmp_path: Path) -> None:
        path = write_file(tmp_path / "m.safetensors", {"a": raw("C64", (MIB,), 1), "b": raw("C64", (MIB,), 2)})
        mine = {name: gpu.empty((MIB,), torch.complex64) for name in "ab"}
        with pytest.raises(ws.ConfigError, match=r"into\['b'\] is a view that conjugates"):
            ws.load(path, into={**mine, "b": mine["b"].conj()})

    def test_names_that_the_checkpoint_lacks(self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
        mine = {name: torch.zeros(512, dtype=torch.float16) for name in ("norm.1", "norm.01")}
        with pytest.raises(ws.ConfigError, match=r"into has 'norm\.01', which no source has; there is .*'norm\.1'"):
            ws.load(model[0], into=mine)
        assert bytes_of(ws.load(model[0], into=mine, names=["norm.1"])["norm.1"]) == model[1]["norm.1"].data

    @pytest.mark.parametrize("device", ["gpu", "host"])
    @pytest.mark.parametrize("kind", ["parameter", "inference", "in inference mode"])
    def test_whatever_torch_tracks_of_it(
        self, model: tuple[Path, dict[str, Raw]], device: str, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path, tensors = model
        with fake_gpu(monkeypatch) if device == "gpu" else nullcontext() as gpu:
            empty = gpu.empty if gpu else torch.empty
            names = ("large.0", "large.1", "norm.3")
            with torch.inference_mode(kind == "inference"):
                like = {name: _like(tensor) for name, tensor in ws.load(path, names=names, backend="mmap").items()}
                plain = {name: empty(shape, dtype=dtype).view(shape) for name, (shape, dtype) in like.items()}
            mine = {name: torch.nn.Parameter(t) for name, t in plain.items()} if kind == "parameter" else plain
            assert all(tensor.is_inference() == (kind == "inference") for tensor in mine.values())
            with torch.inference_mode(kind == "in inference mode"):
                given = ws.load(path, into=mine)
            assert all(given[name] is mine[name] for name in names)
            assert_same({name: tensor.detach() for name, tensor in mine.items()}, {n: tensors[n] for n in names})
            assert all(tensor.requires_grad == (kind == "parameter") for tensor in mine.values())
            del given, mine, plain
            gc.collect()

    def test_memory_of_a_parameter_that_gets_other_data(self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
        gpu.library.fake_set_timing(200_000, 0, 100)  # copies are under way for a while
        mine = {name: torch.nn.Parameter(gpu.empty((3, MIB // 4), torch.float32)) for name in ("large.1",)}
        mine["norm.1"] = torch.nn.Parameter(gpu.empty((512,), torch.float16))
        with ws.stream(model[0], into=mine) as stream:
            for parameter in mine.values():
                parameter.data = torch.empty(0, dtype=parameter.dtype)
            gc.collect()
            assert gpu.live == 2
            assert sorted(name for name, _ in stream) == sorted(mine)
        gc.collect()
        assert gpu.live == 0

    def test_the_mapping_is_looked_at_once(self, gpu: FakeGpu, model: tuple[Path, dict[str, Raw]]) -> None:
        class Makes(Mapping[str, torch.Tensor]):
            def __getitem__(self, name: str) -> torch.Tensor:
                return gpu.empty((512,), torch.float16)

            def __iter__(self) -> Iterator[str]:
                return iter(["norm.1", "norm.30"])

            def __len__(self) -> int:
                return 2

        assert_same(ws.load(model[0], into=Makes()), {name: model[1][name] for name in ("norm.1", "norm.30")})
