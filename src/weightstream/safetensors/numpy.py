"""In place of ``safetensors.numpy``: files are read by weightstream; saving is the safetensors package's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from safetensors.numpy import load, save, save_file

from ._open import safe_open

if TYPE_CHECKING:
    from ..sources import Location

__all__ = ["load", "load_file", "save", "save_file"]


def load_file(filename: Location, *, backend: str = "mmap") -> dict[str, Any]:
    """Loads all tensors of a file (or of any other location, see `safe_open`) as arrays of numpy, by name.

    Raises:
        SafetensorError, OSError: as `safe_open`.

    Example:
        >>> weights = load_file("model.safetensors")

    """
    with safe_open(filename, framework="np", backend=backend) as f:
        tensors: dict[str, Any] = f.get_tensors()
    return tensors
