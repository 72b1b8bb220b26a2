"""SGLang's own modules, as its wheel has them: its plug-in loader, its hooks, its configuration, its default loader.

A whole SGLang needs a GPU, so no model runs here. Its modules are imported as they are; what stands in is torchvision,
which they import and none of this uses.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from absent import stand_in
from safetensors.torch import save_file
from vllm_runs import LOADED, Models, reaching

import weightstream as ws
from servers.s3 import S3Server

pytestmark = [
    pytest.mark.skipif(find_spec("sglang") is None, reason="SGLang is not installed here: make engines"),
    pytest.mark.filterwarnings("default"),  # its imports warn
]


@pytest.fixture(scope="module", autouse=True)
def _plug_in() -> None:
    """What SGLang does when it starts: weightstream is found by its entry point."""
    if find_spec("torchvision") is None:
        import transformers.image_utils  # noqa: F401 -- which asks whether torchvision is there, and has to hear no

        stand_in("torchvision")
    from sglang.srt.plugins import load_plugins

    load_plugins()


@pytest.fixture(autouse=True)
def _context() -> Iterator[None]:
    """The configuration of a process that loads, as SGLang's own tests make it."""
    from sglang.srt.runtime_context import get_context

    with get_context().override_server_args(load_format="weightstream"):
        yield


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two files that an index names, with layers of a draft model, and one that it leaves out."""
    files = {
        "model-1.safetensors": {"embed.weight": torch.arange(6.0), "model.mtp.layers.0.up": torch.ones(3)},
        "model-2.safetensors": {"norm.weight": torch.arange(4.0), "model.mtp.layers.1.up": torch.zeros(3)},
    }
    for file, tensors in files.items():
        save_file(tensors, tmp_path / file)
    save_file({"tok.weight": torch.arange(5.0)}, tmp_path / "consolidated.safetensors")
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return tmp_path


def config(load_format: str, **settings: Any) -> Any:
    from sglang.srt.configs.load_config import LoadConfig

    return LoadConfig(load_format=load_format, **settings)


def weights(loader_config: Any, folder: Path, **settings: Any) -> dict[str, list[float]]:
    """What the loader of a configuration gives for a folder."""
    from sglang.srt.model_loader.loader import DefaultModelLoader, get_model_loader

    loader = get_model_loader(loader_config)
    assert type(loader) is DefaultModelLoader  # what reloads and the overlapped start ask for
    iterator = loader._get_weights_iterator(DefaultModelLoader.Source(str(folder), None, **settings))
    return {name: tensor.flatten().tolist() for name, tensor in iterator}


def test_the_command_line_takes_the_load_format(models: Models) -> None:
    from sglang.srt.server_args import prepare_server_args

    args = ["--model-path", str(models.one), "--load-format", "weightstream"]
    assert (
        prepare_server_args([*args, "--model-loader-extra-config", '{"concurrency": 2}']).load_format == "weightstream"
    )


def test_the_loader_is_the_default_one_for_safetensors() -> None:
    from sglang.srt.configs.load_config import LoadFormat

    made = config("weightstream", model_loader_extra_config='{"concurrency": 2, "device": "cpu"}')
    assert made.load_format is LoadFormat.SAFETENSORS
    assert made.model_loader_extra_config == {}
    assert made.weightstream.keywords == {"concurrency": 2}
    assert made.weightstream.device == "cpu"


def test_an_unknown_key_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(ws.ConfigError, match="knows no num_threads; it knows backend, concurrency, device"):
        config("weightstream", model_loader_extra_config={"num_threads": 4})


def test_a_reload_has_the_settings_of_the_start() -> None:
    config("weightstream", model_loader_extra_config={"memory_limit": "1GiB"})
    assert config("weightstream").weightstream.keywords == {"memory_limit": "1GiB"}


@pytest.mark.parametrize("prefetch", [False, True])  # which of its iterators SGLang chooses
@pytest.mark.parametrize(
    ("settings", "source"),
    [({}, {}), ({}, {"prefix": "language."}), ({"draft_model_idx": 1}, {"prefix": "draft."})],
    ids=["plain", "prefix", "draft"],
)
def test_the_same_weights_as_sglang_reads(
    checkpoint: Path, settings: Any, source: Any, prefetch: bool, caplog: pytest.LogCaptureFixture
) -> None:
    from sglang.srt.runtime_context import get_model

    with get_model().override(weight_loader_prefetch_checkpoints=prefetch), caplog.at_level(logging.INFO):
        expected = weights(config("safetensors", **settings), checkpoint, **source)
        assert LOADED not in caplog.text
        assert weights(config("weightstream", **settings), checkpoint, **source) == expected
    assert len(expected) == (3 if settings else 4)
    assert caplog.text.count(LOADED) == 1


def test_files_that_were_resolved_before(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    from sglang.srt.model_loader.loader import DefaultModelLoader, get_model_loader

    loader = get_model_loader(config("weightstream"))
    source = DefaultModelLoader.Source(str(checkpoint), None)
    resolved = DefaultModelLoader.ResolvedSource(
        source, str(checkpoint), (str(checkpoint / "model-2.safetensors"),), True
    )
    with caplog.at_level(logging.INFO):
        found = dict(loader._get_weights_iterator(source, resolved_source=resolved, startup_prefetch_started=True))
    assert sorted(found) == ["model.mtp.layers.1.up", "norm.weight"]
    assert LOADED in caplog.text


def test_tensors_and_their_storages_take_the_attributes_that_sglang_sets(checkpoint: Path) -> None:
    from sglang.srt.model_loader.weight_utils import RUNAI_STREAMER_TENSOR_ATTR

    for tensor in ws.load(checkpoint).values():
        setattr(tensor, RUNAI_STREAMER_TENSOR_ATTR, True)
        setattr(tensor.untyped_storage(), RUNAI_STREAMER_TENSOR_ATTR, True)
        assert getattr(tensor.detach()[:1].untyped_storage(), RUNAI_STREAMER_TENSOR_ATTR)


def test_a_model_in_s3_by_the_shim(
    models: Models, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from sglang.srt.model_loader.weight_utils import runai_safetensors_weights_iterator
    from sglang.srt.utils.runai_utils import ObjectStorageModel, list_safetensors

    for name, value in (reaching(s3) | {"SGLANG_CACHE_DIR": str(tmp_path)}).items():
        monkeypatch.setenv(name, value)
    url = f"{models.in_s3}/sharded"
    folder = Path(ObjectStorageModel.download_and_get_path(url))
    assert sorted(path.name for path in folder.glob("*.json")) == ["config.json", "model.safetensors.index.json"]
    files = list_safetensors(url)
    assert len(files) == 3
    found = {name: tensor.clone() for name, tensor in runai_safetensors_weights_iterator(files)}
    expected = ws.load(models.sharded)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
