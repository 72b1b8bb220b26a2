"""`from_pretrained` of diffusers, from any location."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ._folder import as_local_folder, loaded_as_it_is

__all__ = ["from_pretrained"]


def from_pretrained(
    location: str | os.PathLike[str],
    *,
    model_class: Any = None,
    storage_options: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Loads a pipeline, or one model of it, as diffusers does, but its weights are streamed from where they are.

    Args:
        location: a folder: a path, a URL (``s3://``, ``gs://``, ``az://``, ``hf://``, ``http(s)://``), or the name of a
            repository of the Hub, which diffusers itself downloads into its cache.
        model_class: whose ``from_pretrained`` is called: a pipeline's, or a model's such as
            `diffusers.UNet2DConditionModel`. Default: `diffusers.DiffusionPipeline`, which is what its
            ``model_index.json`` says.
        storage_options: as in `weightstream.stream`.
        kwargs: of ``from_pretrained`` of diffusers: ``torch_dtype``, ``variant``, ``subfolder``, ``device_map``, ...

    Returns:
        What ``from_pretrained`` of the class returns.

    Raises:
        WeightstreamError: as `weightstream.stream`.
        OSError, ValueError: as diffusers.

    Example:
        >>> from weightstream.integrations.diffusers import from_pretrained
        >>> pipeline = from_pretrained("s3://models/sdxl", variant="fp16", torch_dtype=torch.float16)

    """
    if model_class is None:
        import diffusers

        model_class = diffusers.DiffusionPipeline
    with as_local_folder(location, storage_options=storage_options, variant=kwargs.get("variant")) as folder:
        if loaded_as_it_is(location) is None:
            kwargs.pop("disable_mmap", None)  # nothing is mapped; it would read the empty files of the folder
        return model_class.from_pretrained(folder, **kwargs)
