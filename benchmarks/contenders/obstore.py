"""obstore: threads that get ranges of the object, each copied to its place in memory of our own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import obstore
from obstore.store import S3Store

from benchmarks.contenders.objects import RangeThreads, S3Address


class Contender(RangeThreads):
    package = "obstore"

    def opened(self, address: S3Address, concurrency: int) -> tuple[int, Callable[[int, int, memoryview], None]]:  # noqa: ARG002
        bundle = address.ca_bundle
        store = S3Store(
            address.bucket,
            endpoint=address.endpoint,
            virtual_hosted_style_request=False,
            skip_signature=True,
            client_options={"allow_http": True} | ({"root_certificate": bundle.read_bytes()} if bundle else {}),
        )

        def get(start: int, end: int, place: memoryview) -> None:
            received = obstore.get_range(store, address.key, start=start, end=end)
            # numpy copies without the interpreter's lock, so the threads do not wait for each other.
            np.copyto(np.frombuffer(place, dtype=np.uint8), np.frombuffer(received, dtype=np.uint8))

        return obstore.head(store, address.key)["size"], get
