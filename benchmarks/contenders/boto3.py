"""boto3: threads that get ranges of the object and read each into its place."""

from __future__ import annotations

from collections.abc import Callable

import boto3
from botocore import UNSIGNED
from botocore.config import Config

from benchmarks.contenders.objects import RangeThreads, S3Address


class Contender(RangeThreads):
    package = "boto3"

    def opened(self, address: S3Address, concurrency: int) -> tuple[int, Callable[[int, int, memoryview], None]]:
        config = Config(
            signature_version=UNSIGNED,
            s3={"addressing_style": "path"},
            max_pool_connections=concurrency,
        )
        client = boto3.client("s3", endpoint_url=address.endpoint, config=config)

        def get(start: int, end: int, place: memoryview) -> None:
            wanted = {"Bucket": address.bucket, "Key": address.key, "Range": f"bytes={start}-{end - 1}"}
            body = client.get_object(**wanted)["Body"]
            while place:
                count = body.readinto(place)
                if not count:
                    raise EOFError(f"the body of {wanted['Range']} ended {len(place)} bytes early")
                place = place[count:]

        return client.head_object(Bucket=address.bucket, Key=address.key)["ContentLength"], get
