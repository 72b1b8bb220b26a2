"""Adapters (LoRA and its like) of peft, from any location."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ._folder import as_local_folder

__all__ = ["from_pretrained", "load_adapter"]


def from_pretrained(
    model: Any,
    location: str | os.PathLike[str],
    adapter_name: str = "default",
    *,
    model_class: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Puts an adapter onto a model, as ``PeftModel.from_pretrained`` does, its weights streamed from where they are.

    Args:
        model: the base model.
        location: the folder of the adapter: a path, a URL (``s3://``, ``gs://``, ``az://``, ``hf://``, ``http(s)://``),
            or the name of a repository of the Hub, which peft itself downloads into its cache.
        adapter_name: what it is called in the model.
        model_class: whose ``from_pretrained`` is called. Default: `peft.PeftModel`.
        storage_options: as in `weightstream.stream`.
        kwargs: of ``PeftModel.from_pretrained``: ``is_trainable``, ``torch_device``, ...

    Returns:
        The `peft.PeftModel`.

    Raises:
        WeightstreamError: as `weightstream.stream`.
        OSError, ValueError: as peft.

    Example:
        >>> from weightstream.integrations.peft import from_pretrained
        >>> model = from_pretrained(base, "s3://adapters/sql")

    """
    if model_class is None:
        import peft

        model_class = peft.PeftModel
    with as_local_folder(location, storage_options=storage_options) as folder:
        return model_class.from_pretrained(model, folder, adapter_name, **kwargs)


def load_adapter(
    model: Any,
    location: str | os.PathLike[str],
    adapter_name: str,
    *,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Adds another adapter to a `peft.PeftModel`, or one to a model of transformers, as their ``load_adapter`` does.

    Args:
        model: what has ``load_adapter``.
        location, storage_options: as `from_pretrained`.
        adapter_name: what it is called in the model.
        kwargs: of ``load_adapter``.

    Raises:
        WeightstreamError: as `weightstream.stream`.
        OSError, ValueError: as peft.

    Example:
        >>> load_adapter(model, "s3://adapters/chat", "chat")
        >>> model.set_adapter("chat")

    """
    with as_local_folder(location, storage_options=storage_options) as folder:
        return model.load_adapter(folder, adapter_name=adapter_name, **kwargs)
