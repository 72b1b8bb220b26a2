"""The `safetensors` package: the pinned release, or the next one from a folder of its own in the same environment.

And weightstream through the same calls, as its drop-in for them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.contenders.base import Loader
from benchmarks.machine import ENVIRONMENT

NEXT_RELEASE = ENVIRONMENT / "safetensors-next"


class Contender(Loader):
    package = "safetensors"

    def __init__(self, way: str, backend: str, *, next: bool = False, drop_in: bool = False) -> None:
        if next:
            if not NEXT_RELEASE.is_dir():
                raise ModuleNotFoundError("the next release of safetensors is not installed; run benchmarks/setup.sh")
            sys.path.insert(0, str(NEXT_RELEASE))
        if drop_in:
            self.package = "weightstream"
        package = "weightstream.safetensors" if drop_in else "safetensors"
        self._safetensors: Any = importlib.import_module(package)
        importlib.import_module(f"{package}.torch")
        self._way = way
        self._backend = backend
        self._stats: dict[str, Any] = {}
        self.touches_needed = backend == "mmap"

    def version(self) -> str:
        version = getattr(self._safetensors, "__version__", None)  # of the next release, which has no metadata here
        return super().version() if version is None else str(version)

    def stats(self) -> dict[str, Any]:
        return self._stats

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for path in locations:
            if self._way == "load":
                yield from self._safetensors.torch.load_file(path, device=self.device, backend=self._backend).items()
                continue
            with contextlib.ExitStack() as stack:
                opened = stack.enter_context(
                    self._safetensors.safe_open(path, framework="pt", device=self.device, backend=self._backend)
                )
                if self._way == "prefetch":
                    yield from stack.enter_context(opened.prefetch())
                    continue
                for name in opened.offset_keys():
                    yield name, opened.get_slice(name)[...] if self._way == "slices" else opened.get_tensor(name)
                if hasattr(opened, "stats"):
                    self._stats = dataclasses.asdict(opened.stats)
