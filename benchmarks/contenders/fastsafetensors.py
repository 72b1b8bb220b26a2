"""fastsafetensors without GPUDirect Storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from fastsafetensors import SafeTensorsFileLoader

from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "fastsafetensors"

    def __init__(self) -> None:
        self._opened: list[Any] = []

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        loader = SafeTensorsFileLoader(pg=None, device=self.device, nogds=True)
        self._opened.append(loader)
        loader.add_filenames({0: list(locations)})
        buffers = loader.copy_files_to_device()
        self._opened.append(buffers)
        for name in loader.get_keys():
            yield name, buffers.get_tensor(name)

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()
