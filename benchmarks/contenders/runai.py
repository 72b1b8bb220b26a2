"""The Run:ai model streamer, from files and, by its S3 plugin, from object stores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch
from runai_model_streamer import SafetensorsStreamer

from benchmarks.contenders.base import Loader


class Contender(Loader):
    package = "runai-model-streamer"

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        with SafetensorsStreamer() as streamer:
            streamer.stream_files([_location(location) for location in locations], device=self.device)
            yield from streamer.get_tensors()


def _location(location: str) -> str:
    """A URL as the plugin wants it: s3://bucket/key, with the endpoint in the environment."""
    if "://" not in location:
        return location
    from benchmarks.contenders.objects import S3Address

    address = S3Address.of(location)
    os.environ["AWS_ENDPOINT_URL"] = address.endpoint
    return f"s3://{address.bucket}/{address.key}"
