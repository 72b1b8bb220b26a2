"""No loader: a copy out of pinned memory that has the file already, which is what the link to the device can do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.contenders.base import Loader
from benchmarks.contenders.objects import tensors_of


class Contender(Loader):
    """Its files are read before the timed part. It gets fresh device memory within, as everyone does."""

    package = "torch"

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole
        self._files: dict[str, torch.Tensor] = {}

    def version(self) -> str:
        return torch.__version__

    def prepare(self, locations: Sequence[str]) -> None:
        for path in locations:
            size = Path(path).stat().st_size
            file = torch.empty(size, dtype=torch.uint8, pin_memory=self.device != "cpu")
            left = file.numpy().data
            with open(path, "rb", buffering=0) as opened:
                while left:
                    count = opened.readinto(left)
                    if not count:
                        raise EOFError(f"{path} ended {len(left)} bytes early")
                    left = left[count:]
            self._files[path] = file

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for path in locations:
            if path not in self._files:  # the primer
                self.prepare([path])
            file = self._files[path]
            if self._whole:
                copied = torch.empty_like(file, device=self.device)
                copied.copy_(file, non_blocking=True)
                yield from tensors_of(file, data_in=copied)
                continue
            for name, tensor in tensors_of(file):
                copy = torch.empty_like(tensor, device=self.device)
                yield name, copy.copy_(tensor, non_blocking=True)

    def pinned_bytes(self) -> int | None:
        return sum(file.nbytes for file in self._files.values())
