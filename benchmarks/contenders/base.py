"""What a contender is for a worker: something that prepares, then yields named torch tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Loader:
    """Base of the contenders. The worker loads the primer once, and only then takes the time of a `load`."""

    package = ""
    """Distribution whose version is reported."""
    touches_needed = False
    """True where tensors are views of a mapped file, whose pages are not there before someone touches them."""
    device = "cpu"
    """Where the tensors have to go, as torch spells it. Set before the first load."""

    def version(self) -> str:
        from importlib.metadata import version

        return version(self.package)

    def converted(self, files: Sequence[Path]) -> list[Path]:
        """The files in the format that this loader reads. Called by the parent's converter, never in a timed part."""
        return list(files)

    def prepare(self, locations: Sequence[str]) -> None:
        """What is no part of a load, right before the timed one. Only for limits: a loader has nothing to prepare."""

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor of some files (paths or URLs) on the device, valid for as long as the caller holds it."""
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """What the loader itself reports about its last load, if anything."""
        return {}

    def pinned_bytes(self) -> int | None:
        """The most bytes of pinned host memory that the last load had, where the library tells."""
        return None

    def close(self) -> None:
        """Free what the last load still holds. Not timed."""
