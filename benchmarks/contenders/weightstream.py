"""weightstream itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import weightstream as ws
from benchmarks.contenders.base import Loader
from benchmarks.contenders.objects import S3Address


class Contender(Loader):
    package = "weightstream"

    def __init__(self, *, s3: bool = False, **options: Any) -> None:
        self._s3 = s3
        self._options = options
        self._stats: dict[str, Any] = {}
        self.touches_needed = options.get("backend") == "mmap"

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        options = {**self._options, "device": self.device}
        if self._s3:
            addresses = [S3Address.of(location) for location in locations]
            locations = [f"s3://{address.bucket}/{address.key}" for address in addresses]
            options = {**options, "storage_options": {"endpoint_url": addresses[0].endpoint}}
        with ws.stream(locations[0] if len(locations) == 1 else list(locations), **options) as stream:
            yield from stream
            self._stats = stream.stats.as_dict()
        # By the file's own name: results are committed, and say nothing of where the machine keeps its files.
        reasons = self._stats["reasons"].items()
        self._stats["reasons"] = {os.path.basename(path): reason for path, reason in reasons}

    def stats(self) -> dict[str, Any]:
        return self._stats

    def pinned_bytes(self) -> int | None:
        from weightstream import _core

        return _core.pinned_bytes()  # which grows while there are loads, and is kept for a while after the last
