"""obstore: ranges of the object, `concurrency` at a time, each copied to its place in memory of our own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import obstore
import torch
from obstore.store import S3Store

from benchmarks.contenders.base import Loader
from benchmarks.contenders.objects import S3Address, allocate, ranges, tensors_of


class Contender(Loader):
    package = "obstore"

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for location in locations:
            yield from tensors_of(self._read(S3Address.of(location)))

    def _read(self, address: S3Address) -> torch.Tensor:
        bundle = address.ca_bundle
        store = S3Store(
            address.bucket,
            endpoint=address.endpoint,
            virtual_hosted_style_request=False,
            skip_signature=True,
            client_options={"allow_http": True} | ({"root_certificate": bundle.read_bytes()} if bundle else {}),
        )
        file = allocate(obstore.head(store, address.key)["size"])
        target = file.numpy()

        def fetch(extent: tuple[int, int]) -> None:
            start, end = extent
            received = obstore.get_range(store, address.key, start=start, end=end)
            # numpy copies without the interpreter's lock, so the threads do not wait for each other.
            np.copyto(target[start:end], np.frombuffer(received, dtype=np.uint8))

        with ThreadPoolExecutor(self._concurrency) as threads:
            for _ in threads.map(fetch, ranges(len(target))):
                pass
        return file
