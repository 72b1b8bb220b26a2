"""Bare sockets: no more than a client must do, by the library of tools/socket_client.cc."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

import torch

from benchmarks.contenders.base import Loader
from benchmarks.contenders.objects import RANGE_BYTES, tensors_of
from benchmarks.tools import SOCKET_CLIENT


class _Object(ctypes.Structure):
    _fields_ = (
        ("bytes", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("mapping", ctypes.c_void_p),
        ("mapped", ctypes.c_uint64),
        ("error", ctypes.c_char * 256),
    )


class Contender(Loader):
    """Its tensors are views of memory that lives until `close`."""

    def __init__(self, connections: int) -> None:
        self._connections = connections
        self._library = ctypes.CDLL(str(SOCKET_CLIENT))
        self._fetched: list[_Object] = []

    def version(self) -> str:
        return "recv"

    def load(self, locations: Sequence[str]) -> Iterator[tuple[str, torch.Tensor]]:
        for location in locations:
            url = urlsplit(location)
            fetched = _Object()
            failed = self._library.benchmark_fetch(
                str(url.hostname).encode(),
                url.port,
                url.path.encode(),
                self._connections,
                ctypes.c_uint64(RANGE_BYTES),
                ctypes.byref(fetched),
            )
            if failed:
                raise OSError(fetched.error.decode(errors="replace"))
            self._fetched.append(fetched)
            memory = (ctypes.c_char * fetched.size).from_address(fetched.bytes)
            yield from tensors_of(torch.frombuffer(memory, dtype=torch.uint8))

    def close(self) -> None:
        while self._fetched:
            self._library.benchmark_free(ctypes.byref(self._fetched.pop()))
