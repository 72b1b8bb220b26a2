"""vLLM: ``--load-format weightstream``.

vLLM calls `register` in each of its processes, by the entry point group ``vllm.general_plugins``. With
``WEIGHTSTREAM_VLLM_RUNAI=1`` the name ``runai_streamer`` means weightstream as well. docs/guides/vllm.md has the rest.
"""

from __future__ import annotations

import logging

from .. import _config
from .._version import __version__

__all__ = ["LOAD_FORMAT", "register"]

LOAD_FORMAT = "weightstream"
RUNAI_FORMAT = "runai_streamer"

# vLLM shows what comes from below "vllm", and nothing else.
_logger = logging.getLogger("vllm.weightstream")


def register() -> None:
    """Makes the load format known to vLLM. Idempotent.

    A vLLM that this does not fit goes on without it: that is a warning, and ``--load-format weightstream`` is refused.

    Example:
        >>> from weightstream.integrations.vllm import register
        >>> register()  # where vLLM's plug-ins are turned off (VLLM_PLUGINS)

    """
    try:
        _register()
    except Exception as error:  # whatever it is: a plug-in must not stop an engine that may not even use it
        _logger.warning(
            "weightstream %s does not work with this vLLM, whose load formats go on to work without it: %s: %s",
            __version__,
            type(error).__name__,
            error,
        )


def _register() -> None:
    from vllm.model_executor import model_loader

    from ._vllm_loader import RunaiModelLoader, WeightstreamModelLoader, check_contract
    from ._vllm_objects import allow_object_urls, pull_without_runai

    # What may not fit comes first: a format that is registered has to work.
    check_contract()
    replace_runai = _config.flag("VLLM_RUNAI")
    allow_object_urls(LOAD_FORMAT, RUNAI_FORMAT)
    pull_without_runai(always=replace_runai)
    registered = model_loader._LOAD_FORMAT_TO_MODEL_LOADER
    if registered.get(LOAD_FORMAT) is not WeightstreamModelLoader:
        model_loader.register_model_loader(LOAD_FORMAT)(WeightstreamModelLoader)
    if replace_runai and registered.get(RUNAI_FORMAT) is not RunaiModelLoader:
        model_loader.register_model_loader(RUNAI_FORMAT)(RunaiModelLoader)
