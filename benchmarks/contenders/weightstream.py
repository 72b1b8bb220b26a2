"""weightstream itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import weightstream as ws
from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "weightstream"

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._stats: dict[str, Any] = {}
        self.touches_needed = options.get("backend") == "mmap"

    def load(self, files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
        with ws.stream(list(files), **self._options) as stream:
            yield from stream
            self._stats = stream.stats.as_dict()
        # By the file's own name: results are committed, and say nothing of where the machine keeps its files.
        reasons = self._stats["reasons"].items()
        self._stats["reasons"] = {os.path.basename(path): reason for path, reason in reasons}

    def stats(self) -> dict[str, Any]:
        return self._stats
