"""The Run:ai model streamer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from runai_model_streamer import SafetensorsStreamer

from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "runai-model-streamer"

    def load(self, files: Sequence[Path]) -> Iterator[tuple[str, torch.Tensor]]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([str(path) for path in files])
            yield from streamer.get_tensors()
