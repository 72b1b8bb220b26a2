"""SGLang: ``--load-format weightstream``.

SGLang calls `register` in each of its processes, by the entry point group ``sglang.srt.plugins``, and then applies what
it registered. Its formats are a closed set, so ``weightstream`` is turned into ``safetensors`` as soon as SGLang takes
it up, and the configuration remembers that weightstream is to read the files. All else is SGLang's own: which files
count, the index, secondary weights, draft models, reloads. docs/guides/sglang.md has the rest.
"""

from __future__ import annotations

import contextvars
import json
import pkgutil
from collections.abc import Callable, Sequence
from typing import Any

from .._log import logger
from .._version import __version__
from ._engine import Bar, LoaderSettings, stream_weights

__all__ = ["LOAD_FORMAT", "register"]

LOAD_FORMAT = "weightstream"

_OPTION = "model_loader_extra_config"
_CONFIG = "sglang.srt.configs.load_config.LoadConfig._verify_load_format"
_LOADER = "sglang.srt.model_loader.loader.DefaultModelLoader._get_weights_iterator"
# Whichever of its iterators SGLang's default loader chooses, this is what reads the files.
_ITERATORS = (
    "sglang.srt.model_loader.weight_utils.safetensors_weights_iterator",
    "sglang.srt.model_loader.weight_utils.buffered_multi_thread_safetensors_weights_iterator",
)

# The settings of the loader that is choosing an iterator right now, in this thread.
_loading: contextvars.ContextVar[LoaderSettings | None] = contextvars.ContextVar("weightstream_loading", default=None)


class _Memory:
    """What this process did: hooked the loader; the settings that it was started with, which a reload is not given."""

    hooked = False
    settings = LoaderSettings()


def register() -> None:
    """Makes the load format known to SGLang. Idempotent.

    An SGLang that this does not fit goes on without it: that is a warning, and the load format is refused.

    Example:
        >>> from sglang.srt.plugins import load_plugins
        >>> load_plugins()  # what SGLang does itself, before it looks at its arguments

    """
    try:
        _register()
    except Exception as error:  # whatever it is: a plug-in must not stop an engine that may not even use it
        logger.warning(
            "weightstream %s does not work with this SGLang, whose load formats go on to work without it: %s: %s",
            __version__,
            type(error).__name__,
            error,
        )


def _register() -> None:
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType
    from sglang.srt.server_args import LOAD_FORMAT_CHOICES, add_load_format_choices

    if LOAD_FORMAT in LOAD_FORMAT_CHOICES:
        return
    HookRegistry.register(_CONFIG, take_up, HookType.AROUND)
    add_load_format_choices([LOAD_FORMAT])


def take_up(verify: Callable[[Any], None], config: Any) -> None:
    """Around ``LoadConfig._verify_load_format``: the load format is safetensors, and the settings are kept beside it.

    Raises:
        ConfigError: the extra configuration has an unknown key, or a value that cannot work.
        RuntimeError: this SGLang's default loader is another one.

    """
    if isinstance(config.load_format, str) and config.load_format.lower() == LOAD_FORMAT:
        extra = config.model_loader_extra_config or {}
        if isinstance(extra, str):
            extra = json.loads(extra)
        if extra:
            _Memory.settings = LoaderSettings.of(extra, _OPTION)
        config.weightstream = _Memory.settings
        config.model_loader_extra_config = {}  # the default loader refuses keys that it does not know
        config.load_format = "safetensors"
        _hook_loader()
    verify(config)


def _hook_loader() -> None:
    """Hooks the default loader: only now, because most of SGLang's processes load nothing and never import it."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if _Memory.hooked:
        return
    hooks = {_LOADER: choose_iterator, **dict.fromkeys(_ITERATORS, read_files)}
    for target in hooks:
        # The registry applies the hooks of a target once, and would pass over ours without a word.
        if _is_hooked(target):
            raise RuntimeError(f"weightstream cannot read for SGLang: another plug-in has hooked {target}")
    for target, hook in hooks.items():
        HookRegistry.register(target, hook, HookType.AROUND)
    HookRegistry.apply_hooks()  # it logs what fails, and goes on
    for target in hooks:
        if not _is_hooked(target):
            raise RuntimeError(f"weightstream {__version__} does not work with this SGLang: {target} cannot be hooked")
    _Memory.hooked = True


def _is_hooked(target: str) -> bool:
    try:
        return hasattr(pkgutil.resolve_name(target), "__wrapped__")
    except (AttributeError, ImportError):
        return False


def choose_iterator(choose: Callable[..., Any], loader: Any, *args: Any, **kwargs: Any) -> Any:
    """Around the method of the default loader that finds the files and returns what iterates over their weights."""
    token = _loading.set(getattr(loader.load_config, "weightstream", None))
    try:
        return choose(loader, *args, **kwargs)
    finally:
        _loading.reset(token)


def read_files(read: Callable[..., Any], hf_weights_files: Sequence[str], *args: Any, **kwargs: Any) -> Any:
    """Around the functions that iterate over the weights of files: weightstream reads them if it was asked for."""
    settings = _loading.get()
    if settings is None:
        return read(hf_weights_files, *args, **kwargs)
    # Its loaders of several large models hold all weights before they use the first: a device has no room for that.
    device = settings.device if settings.device is not None else "cpu"
    return stream_weights(hf_weights_files, settings, device=device, logger=logger, bar=_bar)


def _bar(nbytes: int) -> Bar:
    import torch
    from sglang.srt.model_loader.weight_utils import BAR_FORMAT
    from tqdm.auto import tqdm

    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    bar: Bar = tqdm(
        total=nbytes,
        desc="Loading weights with weightstream",
        disable=not first,
        bar_format=BAR_FORMAT,
        unit="B",
        unit_scale=True,
        mininterval=1.0,
    )
    return bar
