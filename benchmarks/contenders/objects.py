"""What clients of object stores without a loader of their own share: addresses, memory, and tensors out of it."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch

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


def ranges(size: int) -> Sequence[tuple[int, int]]:
    """Start and end of each request for an object of `size` bytes."""
    return [(start, min(start + RANGE_BYTES, size)) for start in range(0, size, RANGE_BYTES)]


def allocate(size: int) -> torch.Tensor:
    """`size` bytes of fresh memory, in huge pages where the system has them: the cheapest to fill."""
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


def tensors_of(file: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a safetensors file whose bytes `file` has; each is a view and keeps them alive."""
    length = int.from_bytes(bytes(file[:8].tolist()), "little")
    header = json.loads(bytes(file[8 : 8 + length].numpy()))
    header.pop("__metadata__", None)
    data = file[8 + length :]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        yield name, data[begin:end].view(_DTYPES[entry["dtype"]]).view(entry["shape"])
