"""In place of ``safetensors.torch``: files are read by weightstream; saving is the safetensors package's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors.torch import _remove_duplicate_names, load, save, save_file, save_model

from ._open import safe_open

if TYPE_CHECKING:
    import torch

    from .._config import Device
    from ..sources import Location

__all__ = ["load", "load_file", "load_model", "save", "save_file", "save_model"]


def load_file(filename: Location, device: Device = "cpu", *, backend: str = "mmap") -> dict[str, torch.Tensor]:
    """Loads all tensors of a file (or of any other location, see `safe_open`) to a device, by name.

    Raises:
        SafetensorError, OSError: as `safe_open`.

    Example:
        >>> weights = load_file("model.safetensors", device="cuda:0")

    """
    with safe_open(filename, framework="pt", device=device, backend=backend) as f:
        tensors: dict[str, torch.Tensor] = f.get_tensors()
    return tensors


def load_model(
    model: torch.nn.Module,
    filename: Location,
    strict: bool = True,
    device: Device = "cpu",
    *,
    backend: str = "mmap",
) -> tuple[set[str], list[str]]:
    """Loads a file that `save_model` wrote into a model, which may have tensors that share memory.

    Returns:
        The names that the model has and the file has not, and those that the file has and the model has not.

    Raises:
        RuntimeError: with `strict`, there are any.
        SafetensorError, OSError: as `safe_open`.

    Example:
        >>> missing, unexpected = load_model(model, "model.safetensors", strict=False)

    """
    state = load_file(filename, device, backend=backend)
    duplicates = _remove_duplicate_names(model.state_dict(), preferred_names=list(state))
    found = model.load_state_dict(state, strict=False)
    missing, unexpected = set(found.missing_keys), list(found.unexpected_keys)
    # Of names that share memory the file has one: the others are missing from it, and rightly so.
    for names in duplicates.values():
        for name in names:
            if name in missing:
                missing.remove(name)
            else:
                unexpected.append(name)
    if strict and (missing or unexpected):
        lines = [f"Error(s) in loading state_dict for {type(model).__name__}:"]
        if missing:
            lines.append(f"Missing key(s) in state_dict: {_quoted(sorted(missing))}")
        if unexpected:
            lines.append(f"Unexpected key(s) in state_dict: {_quoted(sorted(unexpected))}")
        raise RuntimeError("\n    ".join(lines))
    return missing, unexpected


def _quoted(names: list[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)
