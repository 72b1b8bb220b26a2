"""Models of vLLM in object stores.

vLLM knows such URLs by the names of the loaders that it had when it was released, and pulls the configuration and the
tokenizer of such a model by the Run:ai package. Both are widened here, and nothing else of vLLM is changed.
"""

from __future__ import annotations

import functools

from vllm.config import VllmConfig
from vllm.transformers_utils import runai_utils
from vllm.transformers_utils.runai_utils import is_runai_obj_uri
from vllm.utils.import_utils import PlaceholderModule

from ..runai import pull_files

_CHECK = "try_verify_and_update_config"


def allow_object_urls(load_format: str, accepted: str) -> None:
    """Makes vLLM accept a model in an object store with `load_format`, as it does with the name `accepted`.

    Raises:
        AttributeError: vLLM does not check this where it did.

    """
    check = getattr(VllmConfig, _CHECK)
    if hasattr(check, "weightstream"):
        return

    @functools.wraps(check)
    def checked(self: VllmConfig) -> None:
        config = self.load_config
        weights = getattr(self.model_config, "model_weights", None)
        if config.load_format != load_format or not weights or not is_runai_obj_uri(weights):
            check(self)
            return
        config.load_format = accepted
        try:
            check(self)
        finally:
            config.load_format = load_format

    checked.weightstream = True  # type: ignore[attr-defined]
    setattr(VllmConfig, _CHECK, checked)


def pull_without_runai(*, always: bool) -> None:
    """Lets weightstream pull what is not weights: where there is no package of Run:ai's name, or `always`."""
    absent = isinstance(getattr(runai_utils, "runai_model_streamer", None), PlaceholderModule)
    if absent or always:
        runai_utils.runai_pull_files = pull_files
