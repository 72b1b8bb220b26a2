"""`from_pretrained` of transformers, from any location."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._errors import ConfigError
from ..sources.remote import printable
from ._folder import as_local_folder, loaded_as_it_is

__all__ = ["from_pretrained"]


def from_pretrained(
    location: str | os.PathLike[str],
    *args: Any,
    model_class: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Loads a model as transformers does, but its weights are streamed from where they are.

    Args:
        location: a folder: a path, a URL (``s3://``, ``gs://``, ``az://``, ``hf://``, ``http(s)://``), or the name of a
            repository of the Hub, which transformers itself downloads into its cache.
        args, kwargs: of ``from_pretrained`` of transformers: ``dtype``, ``device_map``, ``subfolder``, ``variant``, ...
        model_class: whose ``from_pretrained`` is called, such as `transformers.AutoModelForCausalLM`. Default: the
            class that the model was saved from, by its ``config.json``.
        storage_options: as in `weightstream.stream`.

    Returns:
        What ``from_pretrained`` of the class returns.

    Raises:
        ConfigError: parts of the model went to the disk, which a model that is not on the disk cannot do.
        WeightstreamError: as `weightstream.stream`.
        OSError, ValueError: as transformers.

    Example:
        >>> from weightstream.integrations.transformers import from_pretrained
        >>> model = from_pretrained("s3://models/llama", device_map="cuda:0")

    """
    with as_local_folder(location, storage_options=storage_options, variant=kwargs.get("variant")) as folder:
        remote = loaded_as_it_is(location) is None
        if remote:
            kwargs.pop("disable_mmap", None)  # nothing is mapped; it would read the empty files of the folder
        chosen = _saved_class(folder, kwargs.get("subfolder", "")) if model_class is None else model_class
        loaded = chosen.from_pretrained(folder, *args, **kwargs)
    model = loaded[0] if isinstance(loaded, tuple) else loaded  # with output_loading_info
    if remote:
        if "disk" in getattr(model, "hf_device_map", {}).values():
            raise ConfigError(
                "the device map leaves parts of the model on the disk, from where they are read again and again; "
                "copy it there first (weightstream pull), or give the map more memory"
            )
        _rename(model, printable(os.fspath(location)))
    return loaded


def _saved_class(folder: str, subfolder: str) -> Any:
    import transformers

    config = Path(folder, subfolder, "config.json")
    if config.is_file():
        architectures = json.loads(config.read_text(encoding="utf-8")).get("architectures") or [""]
        return getattr(transformers, str(architectures[0]), transformers.AutoModel)
    if os.path.isdir(folder):
        return transformers.AutoModel
    hub: Any = transformers.AutoConfig.from_pretrained(folder, subfolder=subfolder)
    return getattr(transformers, (hub.architectures or [""])[0], transformers.AutoModel)


def _rename(model: Any, name: str) -> None:
    """The name that the model has of the temporary folder becomes that of its location."""
    owners: tuple[Any, ...] = (model, getattr(model, "config", None))
    for owner in owners:
        if hasattr(owner, "name_or_path"):
            owner.name_or_path = name
