"""weightstream in programs that cannot be changed: `safetensors.safe_open` is replaced wherever a module has bound it.

Programs bind the name at import (``from safetensors import safe_open``), so every loaded module is looked at, and what
is the very object of the safetensors package is replaced. `safetensors.torch.load_file` and its like look the name up
in their own module when they are called: they need no replacement, wherever they are bound.
"""

from __future__ import annotations

import sys
import threading
from itertools import repeat
from operator import is_
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

_NAME = "safe_open"
# Modules that hold the original because they need it: that which defines it, and those that hand it on from here.
_NEVER = ("safetensors._safetensors_rust", "weightstream")

_lock = threading.RLock()
_active = 0
_original: Any = None
_replacement: Any = None


class SafetensorsPatch:
    """What `patch_safetensors` did. Leaving it as a context, or `undo()`, takes it back."""

    def __init__(self) -> None:
        self._undone = False
        _install()

    def undo(self) -> None:
        """Takes it back, also in modules that were imported meanwhile. Idempotent.

        While another patch is there, everything stays as it is, until the last one is undone.
        """
        with _lock:
            if not self._undone:
                self._undone = True
                _uninstall()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def patch_safetensors() -> SafetensorsPatch:
    """Lets programs that use the safetensors package read by weightstream, from now on or within a ``with`` block.

    `safetensors.safe_open` is replaced by `weightstream.safetensors.safe_open`, in the package and in every module that
    has bound it: transformers, diffusers, accelerate, and whatever else is loaded or is imported meanwhile. So are the
    functions that call it, such as `safetensors.torch.load_file` and `load_model`. Handles that are open stay what they
    are. Patches nest: when the last one is undone, every module has what it had.

    Raises:
        ModuleNotFoundError: the safetensors package is not installed.

    Example:
        >>> with ws.patch_safetensors():
        ...     model = AutoModelForCausalLM.from_pretrained("models/llama")
        >>> patch = ws.patch_safetensors()  # or for good, until patch.undo()

    """
    return SafetensorsPatch()


def _install() -> None:
    global _active, _original, _replacement
    with _lock:
        if _active == 0:
            import safetensors

            from .safetensors import safe_open

            # A class of its own: who has bound weightstream.safetensors.safe_open means it, and keeps it.
            _original = safetensors.safe_open
            _replacement = type(_NAME, (safe_open,), {"__doc__": safe_open.__doc__, "__module__": "safetensors"})
            _exchange(_original, _replacement)
        _active += 1


def _uninstall() -> None:
    global _active, _original, _replacement
    _active -= 1
    if _active == 0:
        _exchange(_replacement, _original)
        _original = _replacement = None


def _exchange(old: Any, new: Any) -> None:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and not name.startswith(_NEVER):
            # By its dictionary: asking a module for an attribute may import what it has not needed so far.
            names = vars(module)
            # There are a hundred thousand names in a program that uses transformers, and hardly any is bound to it.
            if any(map(is_, list(names.values()), repeat(old))):
                for bound, value in list(names.items()):
                    if value is old:
                        setattr(module, bound, new)
