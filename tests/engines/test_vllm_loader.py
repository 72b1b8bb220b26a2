"""The loader beside vLLM's default one: the same files, names and weights, whatever a model asks for."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weightstream as ws

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's imports warn


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two files with attention and four experts, and a folder below."""
    experts = {
        f"layers.{layer}.mlp.experts.{expert}.{what}": torch.full((4, 3), 10.0 * layer + expert)
        for layer in range(2)
        for expert in range(4)
        for what in ("up.weight", "up.weight_scale")
    }
    folder = tmp_path / "checkpoint"
    (folder / "vision").mkdir(parents=True)
    save_file(experts, folder / "model-2.safetensors")
    save_file({"embed.weight": torch.arange(6.0), "mtp.weight": torch.ones(2)}, folder / "model-10.safetensors")
    save_file({"patch.weight": torch.arange(3.0)}, folder / "vision" / "model.safetensors")
    return folder


def loaders(**extra: Any) -> list[Any]:
    """The default loader, and this one."""
    from vllm.config.load import LoadConfig
    from vllm.model_executor.model_loader import DefaultModelLoader, get_model_loader

    from weightstream.integrations.vllm import register

    register()
    default = DefaultModelLoader(LoadConfig(load_format="safetensors", use_tqdm_on_load=False))
    ours = LoadConfig(load_format="weightstream", model_loader_extra_config=extra, use_tqdm_on_load=False)
    return [default, get_model_loader(ours)]


@contextmanager
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """What vLLM logs reaches `caplog`: its logger passes nothing on to the root."""
    vllm = logging.getLogger("vllm")
    vllm.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.INFO, "vllm"):
            yield
    finally:
        vllm.removeHandler(caplog.handler)


def source(folder: Path, **settings: Any) -> Any:
    from vllm.model_executor.model_loader import DefaultModelLoader

    return DefaultModelLoader.Source(str(folder), None, **settings)


def weights(iterator: Iterator[tuple[str, torch.Tensor]]) -> dict[str, list[float]]:
    return {name: tensor.flatten().tolist() for name, tensor in iterator}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prefix": "language."},
        {"subfolder": "vision"},
        {"allow_patterns_overrides": ["model-2*.safetensors"]},
    ],
    ids=str,
)
def test_a_source_gives_what_the_default_loader_gives(checkpoint: Path, settings: dict[str, Any]) -> None:
    default, ours = loaders()
    expected = weights(default._get_weights_iterator(source(checkpoint, **settings)))
    assert expected
    assert weights(ours._get_weights_iterator(source(checkpoint, **settings))) == expected


def test_experts_of_other_ranks_are_not_read(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    default, ours = loaders()
    default.local_expert_ids = ours.local_expert_ids = {1, 3}
    expected = weights(default._get_weights_iterator(source(checkpoint)))
    assert "layers.0.mlp.experts.1.up.weight" in expected
    assert "layers.0.mlp.experts.2.up.weight" not in expected
    with logged(caplog):
        assert weights(ours._get_weights_iterator(source(checkpoint))) == expected
    assert f"streams {len(expected)} tensors" in caplog.text


def test_weights_that_the_model_does_not_load_are_not_read(checkpoint: Path) -> None:
    # The default loader can leave out whole files only.
    default, ours = loaders()
    unused = source(checkpoint, is_unused_weight=lambda name: name.startswith(("mtp.", "layers.")))
    assert sorted(weights(default._get_weights_iterator(unused))) == ["embed.weight", "mtp.weight"]
    assert list(weights(ours._get_weights_iterator(unused))) == ["embed.weight"]


def test_files_of_the_language_model_are_not_read_for_an_encoder_alone(checkpoint: Path) -> None:
    weight_map = {name: file.name for file in checkpoint.glob("*.safetensors") for name in ws.open(file)}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    default, ours = loaders()
    default._encoder_only_lm_prefixes = ours._encoder_only_lm_prefixes = ("layers.",)
    expected = weights(default._get_weights_iterator(source(checkpoint)))
    assert sorted(expected) == ["embed.weight", "mtp.weight"]
    assert weights(ours._get_weights_iterator(source(checkpoint))) == expected


def test_secondary_weights_come_after_the_others(checkpoint: Path) -> None:
    model = SimpleNamespace(secondary_weights=[source(checkpoint, subfolder="vision", prefix="tower.")])
    config = SimpleNamespace(model=str(checkpoint), model_weights="", revision=None)
    default, ours = loaders()
    expected = weights(default.get_all_weights(config, model))
    assert "tower.patch.weight" in expected
    assert weights(ours.get_all_weights(config, model)) == expected


def test_the_key_of_the_default_loader_stays_its_own() -> None:
    from vllm.config.load import LoadConfig

    from weightstream.integrations._vllm_loader import WeightstreamModelLoader

    extra = {"enable_weights_track": False, "concurrency": 3}
    config = LoadConfig(load_format="weightstream", model_loader_extra_config=extra)
    loader = WeightstreamModelLoader(config)
    assert loader.enable_weights_track is False
    assert loader._settings.keywords == {"concurrency": 3}
    assert config.load_format == "weightstream"
    assert config.model_loader_extra_config == extra


def test_registering_twice_changes_nothing() -> None:
    from vllm.config import VllmConfig
    from vllm.model_executor import model_loader

    from weightstream.integrations.vllm import register

    register()
    before = (VllmConfig.try_verify_and_update_config, dict(model_loader._LOAD_FORMAT_TO_MODEL_LOADER))
    register()
    assert (VllmConfig.try_verify_and_update_config, dict(model_loader._LOAD_FORMAT_TO_MODEL_LOADER)) == before


def test_an_unknown_default_loader_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from vllm.model_executor import model_loader

    from weightstream.integrations.vllm import register

    monkeypatch.setattr(model_loader.DefaultModelLoader, "_prepare_weights", lambda self, model: None)
    monkeypatch.setattr(model_loader, "_LOAD_FORMAT_TO_MODEL_LOADER", {})
    with logged(caplog):
        register()
    assert "does not work with this vLLM" in caplog.text
    assert "_prepare_weights takes ['self', 'model']" in caplog.text
    assert model_loader._LOAD_FORMAT_TO_MODEL_LOADER == {}
