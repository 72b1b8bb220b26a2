"""Weights of an engine on their way to a GPU that gets full, through the fake driver."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import weightstream as ws
from checkpoints import assert_same, blocks, write_file
from fake_gpu import FakeGpu, fake_gpu
from weightstream.frameworks import torch as torch_framework
from weightstream.integrations._engine import LoaderSettings, stream_weights

LOGGER = logging.getLogger("some.engine")
MIB = 1 << 20
ILLEGAL_ADDRESS = 700
DEVICE = "meta"  # the GPU that is none, beside the host's memory


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as made:

        def memory(device: torch.device) -> FakeGpu | None:
            return made if device.type == DEVICE else None

        monkeypatch.setattr(torch_framework, "gpu_memory", memory)
        yield made
        gc.collect()


def test_an_engine_that_keeps_more_than_fits_gets_the_rest_in_host_memory(
    gpu: FakeGpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = blocks(20, 3 * MIB)
    path = write_file(tmp_path / "m.safetensors", tensors)
    gpu.most_live = 8
    found = []
    with caplog.at_level(logging.INFO, "some.engine"):
        for item in stream_weights(
            str(path), LoaderSettings(), device=DEVICE, wanted=lambda name: name != "t003", logger=LOGGER
        ):
            found.append(item)  # as some models do before they use the first
    assert len(found) == len(tensors) - 1
    assert_same(iter(found), {name: tensor for name, tensor in tensors.items() if name != "t003"})
    assert 0 < gpu.live <= 8
    assert "streams the rest of the weights to host memory: cannot allocate" in caplog.text
    assert f"streams {19 - gpu.live} tensors" in caplog.text


def test_a_device_that_fails_otherwise_is_an_error(gpu: FakeGpu, tmp_path: Path) -> None:
    path = write_file(tmp_path / "m.safetensors", blocks(2, MIB))
    gpu.fail("cuMemcpyHtoDAsync_v2", 1, ILLEGAL_ADDRESS)
    with pytest.raises(ws.DeviceError):
        list(stream_weights(str(path), LoaderSettings(), device=DEVICE, logger=LOGGER))
