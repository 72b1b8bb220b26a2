"""boto3: threads that get ranges of the object and read each into its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import boto3
import torch
from botocore import UNSIGNED
from botocore.config import Config

from benchmarks.contenders.base import Loader
from benchmarks.contenders.objects import S3Address, allocate, ranges, tensors_of


class Contender(Loader):
    package = "boto3"

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for location in locations:
            yield from tensors_of(self._read(S3Address.of(location)))

    def _read(self, address: S3Address) -> torch.Tensor:
        config = Config(
            signature_version=UNSIGNED,
            s3={"addressing_style": "path"},
            max_pool_connections=self._concurrency,
        )
        client = boto3.client("s3", endpoint_url=address.endpoint, config=config)
        file = allocate(client.head_object(Bucket=address.bucket, Key=address.key)["ContentLength"])
        target = file.numpy().data

        def fetch(extent: tuple[int, int]) -> None:
            start, end = extent
            wanted = {"Bucket": address.bucket, "Key": address.key, "Range": f"bytes={start}-{end - 1}"}
            body = client.get_object(**wanted)["Body"]
            while start < end:
                count = body.readinto(target[start:end])
                if not count:
                    raise EOFError(f"the body of {wanted['Range']} ended {end - start} bytes early")
                start += count

        with ThreadPoolExecutor(self._concurrency) as threads:
            for _ in threads.map(fetch, ranges(len(target))):
                pass
        return file
