"""What clients of object stores without a loader of their own share: addresses, threads, memory, tensors out of it."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

from benchmarks.contenders.base import Loader

RANGE_BYTES = 8 << 20

_DTYPES = {"BF16": torch.bfloat16}
"""Those of the harness's own files."""


@dataclass(frozen=True)
class S3Address:
    """A URL as clients of S3 see it, path style."""

    endpoint: str
    bucket: str
    key: str

    @classmethod
    def of(cls, url: str) -> S3Address:
        parts = urlsplit(url)
        bucket, _, key = unquote(parts.path.lstrip("/")).partition("/")
        return cls(f"{parts.scheme}://{parts.netloc}", bucket, key)

    @property
    def ca_bundle(self) -> Path | None:
        """The file with the CA that signed the server's certificate, if it has one."""
        return Path(os.environ["AWS_CA_BUNDLE"]) if self.endpoint.startswith("https:") else None


class RangeThreads(Loader):
    """Threads that get ranges of an object, `concurrency` at a time, each into its place."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    def opened(self, address: S3Address, concurrency: int) -> tuple[int, Callable[[int, int, memoryview], None]]:
        """The size of an object, and a function that gets the bytes from a start to an end into a place."""
        raise NotImplementedError

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for location in locations:
            yield from tensors_of(self._read(S3Address.of(location)))

    def _read(self, address: S3Address) -> torch.Tensor:
        size, get = self.opened(address, self._concurrency)
        file = allocate(size)
        target = file.numpy().data

        def fetch(extent: tuple[int, int]) -> None:
            get(*extent, target[slice(*extent)])

        with ThreadPoolExecutor(self._concurrency) as threads:
            for _ in threads.map(fetch, ranges(size)):
                pass
        return file


def ranges(size: int) -> Sequence[tuple[int, int]]:
    """Start and end of each request for an object of `size` bytes."""
    return [(start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES)]


def allocate(size: int) -> torch.Tensor:
    """`size` bytes of fresh memory, in huge pages where the system has them: the cheapest to fill."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def tensors_of(file: torch.Tensor, data_in: torch.Tensor | None = None) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a safetensors file whose bytes `file` has; each is a view and keeps them alive.

    `data_in`: another tensor of the same bytes, on another device, of which they are views instead.
    """
    length = int.from_bytes(bytes(file[:8].tolist()), "little")
    header = json.loads(bytes(file[8 : 8 + length].numpy()))
    header.pop("__metadata__", None)
    data = (file if data_in is None else data_in)[8 + length :]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, data[begin:end].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
