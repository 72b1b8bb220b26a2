"""The part of vLLM that the plug-in touches, written from its published interface (0.32), without what it does.

For the quick tests: `make engines` runs the same plug-in in vLLM itself.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class LoadConfig:
    """vllm.config.load.LoadConfig."""

    load_format: str = "auto"
    model_loader_extra_config: Any = field(default_factory=dict)
    device: str | None = None
    safetensors_load_strategy: str | None = None
    use_tqdm_on_load: bool = False


class DefaultModelLoader:
    """vllm.model_executor.model_loader.DefaultModelLoader: files of a folder, in no order."""

    @dataclass
    class Source:
        model_or_path: str
        revision: str | None
        subfolder: str | None = None
        prefix: str = ""
        fall_back_to_pt: bool = True
        allow_patterns_overrides: list[str] | None = None
        is_unused_weight: Any = None

    counter_before_loading_weights = 0.0

    def __init__(self, load_config: LoadConfig) -> None:
        assert load_config.load_format == "safetensors"
        assert set(load_config.model_loader_extra_config) <= {"enable_weights_track"}
        self.load_config = load_config
        self.local_expert_ids: set[int] | None = None
        self._encoder_only_lm_prefixes: tuple[str, ...] | None = None
        self._encoder_only_weights_mapper = None
        self.downloaded: list[str] = []

    def _prepare_weights(
        self,
        model_name_or_path: str,
        subfolder: str | None,
        revision: str | None,
        fall_back_to_pt: bool,
        allow_patterns_overrides: list[str] | None,
    ) -> tuple[str, list[str], bool, str]:
        folder = Path(model_name_or_path) / (subfolder or "")
        files = sorted(map(str, folder.glob("*.safetensors")), reverse=True)
        return str(folder), files, True, "model.safetensors.index.json"

    def _get_weights_iterator(self, source: Source) -> Iterator[tuple[str, Any]]:
        return iter([("by the default loader", None)])

    def get_all_weights(self, model_config: Any, model: Any) -> Iterator[tuple[str, Any]]:
        yield from self._get_weights_iterator(self.Source(model_config.model, model_config.revision))
        for source in getattr(model, "secondary_weights", ()):
            yield from self._get_weights_iterator(source)

    def _init_mm_encoder_only_weight_filter(self, model: Any, model_config: Any) -> None: ...

    def download_model(self, model_config: Any) -> None:
        self.downloaded.append(model_config.model)


class VllmConfig:
    """vllm.config.VllmConfig: which load formats take models in object stores."""

    def __init__(self, load_format: str, model_weights: str) -> None:
        self.load_config = LoadConfig(load_format)
        self.model_config = SimpleNamespace(model_weights=model_weights)

    def try_verify_and_update_config(self) -> None:
        in_a_store = is_runai_obj_uri(self.model_config.model_weights)
        if in_a_store and self.load_config.load_format != "runai_streamer":
            raise ValueError(f"'load_format' must be 'runai_streamer', but got '{self.load_config.load_format}'")


class PlaceholderModule:
    """vllm.utils.import_utils.PlaceholderModule: stands for a package that is not installed."""


def is_runai_obj_uri(model_or_path: str) -> bool:
    return model_or_path.lower().startswith(("s3://", "gs://", "az://"))


def install(monkeypatch: pytest.MonkeyPatch, *, cuda: bool = False, runai: bool = False) -> SimpleNamespace:
    """Puts it where `import vllm` finds it. Returns what a test looks at."""
    formats: dict[str, Any] = {"runai_streamer": DefaultModelLoader}
    check = VllmConfig.try_verify_and_update_config
    monkeypatch.setattr(VllmConfig, "try_verify_and_update_config", check)  # and put back, whoever changes it
    for name in [name for name in sys.modules if name.startswith("weightstream.integrations._vllm")]:
        monkeypatch.delitem(sys.modules, name)

    def register_model_loader(name: str) -> Any:
        return lambda loader: (
            formats.setdefault(name, loader) if name not in formats else formats.update({name: loader})
        )

    platform = SimpleNamespace(is_cuda_alike=lambda: cuda, current_device=lambda: 3)
    weight_utils = _module(
        "vllm.model_executor.model_loader.weight_utils",
        _natural_sort_key=lambda path: path,
        enable_tqdm=bool,
        _BAR_FORMAT=None,
        filter_mm_encoder_only_safetensors_files=None,
    )
    runai_utils = _module(
        "vllm.transformers_utils.runai_utils", is_runai_obj_uri=is_runai_obj_uri, runai_pull_files="the package's"
    )
    if not runai:
        runai_utils.runai_model_streamer = PlaceholderModule()  # type: ignore[attr-defined]
    modules = [
        _module("vllm"),
        _module("vllm.config", ModelConfig=Any, VllmConfig=VllmConfig),
        _module("vllm.config.load", LoadConfig=LoadConfig),
        _module("vllm.logger", init_logger=logging.getLogger),
        _module("vllm.model_executor"),
        _module(
            "vllm.model_executor.model_loader",
            DefaultModelLoader=DefaultModelLoader,
            register_model_loader=register_model_loader,
            _LOAD_FORMAT_TO_MODEL_LOADER=formats,
        ),
        _module("vllm.model_executor.model_loader.ep_weight_filter", should_skip_weight=_should_skip_weight),
        _module("vllm.platforms", current_platform=platform),
        _module("vllm.transformers_utils", runai_utils=runai_utils),
        _module("vllm.utils"),
        _module("vllm.utils.import_utils", PlaceholderModule=PlaceholderModule),
        weight_utils,
        runai_utils,
    ]
    for module in modules:
        monkeypatch.setitem(sys.modules, module.__name__, module)
    sys.modules["vllm.model_executor"].model_loader = sys.modules["vllm.model_executor.model_loader"]  # type: ignore[attr-defined]
    return SimpleNamespace(formats=formats, runai_utils=runai_utils)


def _module(name: str, **names: Any) -> ModuleType:
    module = ModuleType(name)
    module.__dict__.update(names, __path__=[])
    return module


def _should_skip_weight(name: str, local_expert_ids: set[int] | None) -> bool:
    return local_expert_ids is not None and int(name.rpartition(".")[2]) not in local_expert_ids
