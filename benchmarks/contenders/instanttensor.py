"""InstantTensor, with tensors that are the caller's: copies out of its own device memory, its default."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from instanttensor import BackendPolicy, safe_open

from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "instanttensor"

    def __init__(self, *, buffered: bool = False) -> None:
        # Without a policy it goes past the page cache, also for what is there.
        self._backend = BackendPolicy.BUFFERED if buffered else None

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        with safe_open(list(locations), framework="pt", device=self.device, backend=self._backend) as opened:
            yield from opened.tensors()
