"""The loader of vLLM that streams: its default loader, which finds the files, with another way to read them."""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any

import torch
from tqdm.auto import tqdm
from vllm.config import ModelConfig
from vllm.config.load import LoadConfig
from vllm.logger import init_logger
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.model_loader.ep_weight_filter import should_skip_weight
from vllm.model_executor.model_loader.weight_utils import (
    _BAR_FORMAT,
    _natural_sort_key,
    enable_tqdm,
    filter_mm_encoder_only_safetensors_files,
)
from vllm.platforms import current_platform
from vllm.transformers_utils.runai_utils import is_runai_obj_uri

from .._errors import ConfigError
from ..runai import _environment
from ..runai.credentials import storage_options
from ..sources import Location
from ._engine import Bar, LoaderSettings, is_url, stream_weights

_OPTION = "model_loader_extra_config"
_PREPARE = ["self", "model_name_or_path", "subfolder", "revision", "fall_back_to_pt", "allow_patterns_overrides"]

logger = init_logger("vllm.weightstream")


def check_contract() -> None:
    """Whether vLLM's default loader is what this one builds on.

    Raises:
        RuntimeError: it is not; the message says what differs.

    """
    found = list(inspect.signature(DefaultModelLoader._prepare_weights).parameters)
    if found != _PREPARE:
        raise RuntimeError(f"DefaultModelLoader._prepare_weights takes {found}, not {_PREPARE}")
    fields = {field.name for field in dataclasses.fields(DefaultModelLoader.Source)}
    missing = {"model_or_path", "revision", "subfolder", "prefix", "is_unused_weight"} - fields
    if missing:
        raise RuntimeError(f"DefaultModelLoader.Source has no {', '.join(sorted(missing))}")
    for name in ("_get_weights_iterator", "get_all_weights", "_init_mm_encoder_only_weight_filter"):
        if not hasattr(DefaultModelLoader, name):
            raise RuntimeError(f"DefaultModelLoader has no {name}")


class WeightstreamModelLoader(DefaultModelLoader):  # type: ignore[misc]
    """vLLM's default loader, except that safetensors files are read by weightstream.

    What the default loader does stays: downloads from the Hub, the index that says which files count, secondary
    weights, the filters of experts and of unused weights, tracking of what was loaded, reloads. Beyond it, a model may
    lie in an object store, and filters leave out single tensors, not whole files.
    """

    counter_before_loading_weights: float

    def __init__(self, load_config: LoadConfig) -> None:
        extra = load_config.model_loader_extra_config
        # This key is the default loader's own, of no loader in particular.
        kept = {key: extra[key] for key in ("enable_weights_track",) if isinstance(extra, dict) and key in extra}
        rest = {key: extra[key] for key in extra if key not in kept} if isinstance(extra, dict) else extra
        self._settings = self._settings_of(rest)
        self._urls: dict[str, str] = {}
        # The default loader refuses formats and keys that it does not know.
        super().__init__(dataclasses.replace(load_config, load_format="safetensors", model_loader_extra_config=kept))

    def _settings_of(self, extra_config: Any) -> LoaderSettings:
        return LoaderSettings.of(extra_config, _OPTION)

    def download_model(self, model_config: ModelConfig) -> None:
        """Downloads a model of the Hub; one in an object store is streamed from there."""
        if not is_runai_obj_uri(model_config.model_weights or model_config.model):
            super().download_model(model_config)

    def get_all_weights(self, model_config: ModelConfig, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        """All weights of the model, by name; vLLM calls this for reloads, too."""
        # vLLM has put a folder with the configuration in the place of a URL by now.
        url = model_config.model_weights
        self._urls = {model_config.model: url} if url and is_runai_obj_uri(url) else {}
        yield from super().get_all_weights(model_config, model)

    def _get_weights_iterator(self, source: DefaultModelLoader.Source) -> Iterator[tuple[str, torch.Tensor]]:
        location = self._urls.get(source.model_or_path, source.model_or_path)
        if is_runai_obj_uri(location):
            return self._stream(_below(location, source), source)
        if self.load_config.safetensors_load_strategy == "torchao":
            # Its tensors are put together from several.
            return super()._get_weights_iterator(source)  # type: ignore[no-any-return]
        folder, files, _, index = self._prepare_weights(
            source.model_or_path,
            source.subfolder,
            source.revision,
            source.fall_back_to_pt,
            source.allow_patterns_overrides,
        )
        files = self._without_language_model(folder, files, index)
        return self._stream(sorted(files, key=_natural_sort_key), source)

    def _without_language_model(self, folder: str, files: Sequence[str], index: str) -> Sequence[str]:
        """Of `files` those that --mm-encoder-only wants."""
        if self._encoder_only_lm_prefixes is None:
            return files
        kept: Sequence[str] = filter_mm_encoder_only_safetensors_files(
            files, folder, index, self._encoder_only_lm_prefixes, weights_mapper=self._encoder_only_weights_mapper
        )
        if not kept:
            raise RuntimeError(f"--mm-encoder-only leaves no file of {folder}")
        return kept

    def _stream(self, location: Location, source: DefaultModelLoader.Source) -> Iterator[tuple[str, torch.Tensor]]:
        if not self.counter_before_loading_weights:  # it logs how long all sources took together
            self.counter_before_loading_weights = time.perf_counter()
        weights = stream_weights(
            location,
            self._settings_at(location),
            device=self._device(),
            wanted=self._wanted(source.is_unused_weight),
            logger=logger,
            bar=partial(_bar, self.load_config.use_tqdm_on_load),
        )
        return ((source.prefix + name, tensor) for name, tensor in weights) if source.prefix else weights

    def _settings_at(self, location: Location) -> LoaderSettings:
        if not is_url(location):
            return self._settings
        # vLLM pulled the configuration of this model by the Run:ai API: its variables reach the weights, too.
        options = storage_options([location], None) if isinstance(location, str) else {}
        return dataclasses.replace(
            self._settings, storage_options={**options, **(self._settings.storage_options or {})}
        )

    def _wanted(self, is_unused: Callable[[str], bool] | None) -> Callable[[str], bool] | None:
        """The filter by name: experts of other ranks, and what the model does not load."""
        local = self.local_expert_ids
        if local is None and is_unused is None:
            return None
        return lambda name: not should_skip_weight(name, local) and not (is_unused is not None and is_unused(name))

    def _device(self) -> Any:
        """Where the tensors go: where the model is, so that copies overlap the reads."""
        if self._settings.device is not None:
            return self._settings.device
        if self.load_config.device is not None:
            return self.load_config.device
        # Elsewhere weight loaders have only ever met tensors of the host.
        return f"cuda:{current_platform.current_device()}" if current_platform.is_cuda_alike() else "cpu"


class RunaiModelLoader(WeightstreamModelLoader):
    """The same under the name of the Run:ai model streamer, whose keys it takes."""

    def _settings_of(self, extra_config: Any) -> LoaderSettings:
        if isinstance(extra_config, dict):
            # Each rank reads for itself: nothing is passed on between them.
            extra_config = {key: value for key, value in extra_config.items() if key != "distributed"}
            if type(extra_config.get("memory_limit")) in (int, NoneType):
                limit = _environment.memory_limit(extra_config.get("memory_limit"), _environment.LEAST_PINNED_BYTES)
                extra_config["memory_limit"] = limit
            if extra_config.get("concurrency") is None:
                extra_config["concurrency"] = _environment.concurrency()
        return super()._settings_of(extra_config)


def _below(url: str, source: DefaultModelLoader.Source) -> str:
    """The location of a source in an object store: its folder, or the files that the model asks for."""
    location = f"{url.rstrip('/')}/{source.subfolder.strip('/')}" if source.subfolder else url
    if source.allow_patterns_overrides is None:
        return location
    patterns = [pattern for pattern in source.allow_patterns_overrides if pattern.endswith(".safetensors")]
    if not patterns:
        raise ConfigError(f"the model asks for {source.allow_patterns_overrides}; of {url} only safetensors are loaded")
    return f"{location.rstrip('/')}/{patterns[0]}"


def _bar(use_tqdm: bool, nbytes: int) -> Bar:
    bar: Bar = tqdm(
        total=nbytes,
        desc="Loading weights with weightstream",
        disable=not enable_tqdm(use_tqdm),
        bar_format=_BAR_FORMAT,
        unit="B",
        unit_scale=True,
        mininterval=1.0,
    )
    return bar
