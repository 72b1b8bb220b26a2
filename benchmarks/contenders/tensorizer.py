"""tensorizer, which reads a format of its own: its file is made from the same tensors by its own serializer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tensorizer import TensorDeserializer, TensorSerializer

from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "tensorizer"

    def __init__(self) -> None:
        self._opened: list[Any] = []

    def converted(self, files: Sequence[Path]) -> list[Path]:
        from safetensors.torch import load_file

        made = []
        for path in files:
            target = path.with_suffix(".tensors")
            if not target.exists() or target.stat().st_mtime_ns < path.stat().st_mtime_ns:
                unfinished = target.with_suffix(".part")
                serializer = TensorSerializer(unfinished)
                serializer.write_state_dict(load_file(path))
                serializer.close()
                unfinished.rename(target)
            made.append(target)
        return made

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for path in locations:
            deserializer = TensorDeserializer(path, device="cpu")
            self._opened.append(deserializer)
            yield from deserializer.items()

    def close(self) -> None:
        while self._opened:
            self._opened.pop().close()
