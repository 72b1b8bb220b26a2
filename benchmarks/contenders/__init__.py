"""The loaders that are compared: one module each, one entry in `CONTENDERS` for each way of using it.

The parent process reads only this table; the modules themselves are imported by the worker processes, so that no
contender shares a process, an allocator or a thread pool with another.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.contenders.base import Loader
from benchmarks.tools import SOCKET_CLIENT

DISK = "fio"


@dataclass(frozen=True)
class Contender:
    """One way of using one loader."""

    name: str
    module: str
    """Module of `benchmarks.contenders` with a class `Contender`."""
    needs: str
    """The importable package or the program that must be there."""
    what: str
    options: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of the worker."""
    own_format: bool = False
    """True when it reads a format of its own, into which the files must be converted first."""
    from_urls: bool = False
    """True when it loads from servers only."""
    devices: tuple[str, ...] = ("cpu",)
    """The types of devices that it loads to."""

    @property
    def is_program(self) -> bool:
        return self.name == DISK

    def what_to(self, device: str) -> str:
        """What it is when it loads to a device: there, no pages have to be touched."""
        return self.what if device == "cpu" else self.what.removesuffix(", every page touched")

    def missing(self) -> str | None:
        """Why it cannot run here, or None when it can."""
        if self.is_program:
            return None if shutil.which(self.needs) else f"the program {self.needs} is not installed"
        if self.needs == str(SOCKET_CLIENT):
            return None if SOCKET_CLIENT.is_file() else "the socket client is not built; run benchmarks/setup.sh"
        return None if importlib.util.find_spec(self.needs) else f"the package {self.needs} is not installed"

    def loader(self, device: str = "cpu") -> Loader:
        """Import the loader. Only workers call this."""
        loader: Loader = importlib.import_module(f"benchmarks.contenders.{self.module}").Contender(**self.options)
        loader.device = device
        return loader


_ANY = ("cpu", "cuda")
_CUDA = ("cuda",)


def _weightstream(suffix: str, what: str, **options: Any) -> Contender:
    return Contender(f"weightstream{suffix}", "weightstream", "weightstream", what, options, devices=_ANY)


def _weightstream_at(concurrency: int) -> Contender:
    what = f"weightstream, concurrency={concurrency}"
    return Contender(f"weightstream-{concurrency}", "weightstream", "weightstream", what, {"concurrency": concurrency})


def _sockets(connections: int) -> Contender:
    what = f"bare sockets, {connections} threads, recv into fresh memory"
    options = {"connections": connections}
    return Contender(f"sockets-{connections}", "sockets", str(SOCKET_CLIENT), what, options, from_urls=True)


def _threads(name: str, concurrency: int) -> Contender:
    what = f"{name}, {concurrency} ranges of 8 MiB at a time"
    return Contender(f"{name}-{concurrency}", name, name, what, {"concurrency": concurrency}, from_urls=True)


def _runai_s3(suffix: str, what: str, **variables: str) -> Contender:
    # Path style, because the server has no domain of its own for each bucket.
    environment = {"RUNAI_STREAMER_S3_USE_VIRTUAL_ADDRESSING": "0", **variables}
    name = f"runai-s3{suffix}"
    return Contender(name, "runai", "runai_model_streamer_s3", what, environment=environment, from_urls=True)


def _runai_s3_at(concurrency: int) -> Contender:
    what = f"Run:ai model streamer, S3, RUNAI_STREAMER_CONCURRENCY={concurrency}"
    return _runai_s3(f"-{concurrency}", what, RUNAI_STREAMER_CONCURRENCY=str(concurrency))


def _safetensors(suffix: str, what: str, devices: tuple[str, ...] = _ANY, **options: Any) -> Contender:
    return Contender(f"safetensors{suffix}", "safetensors", "safetensors", what, options, devices=devices)


def _drop_in(suffix: str, what: str, **options: Any) -> Contender:
    what = f"weightstream.safetensors {what}, every page touched"
    options = {"backend": "mmap", "drop_in": True, **options}
    return Contender(f"weightstream-{suffix}", "safetensors", "weightstream", what, options, devices=_ANY)


def _instanttensor(suffix: str, what: str, **options: Any) -> Contender:
    return Contender(f"instanttensor{suffix}", "instanttensor", "instanttensor", what, options, devices=_CUDA)


def _pinned(suffix: str, what: str, *, whole: bool) -> Contender:
    return Contender(f"pinned-copy{suffix}", "pinned", "torch", what, {"whole": whole}, devices=_ANY)


CONTENDERS: dict[str, Contender] = {
    contender.name: contender
    for contender in (
        _weightstream("", "weightstream, everything at its default"),
        _weightstream("-uring", 'weightstream, backend="uring"', backend="uring"),
        _weightstream("-pread", 'weightstream, backend="pread"', backend="pread"),
        _weightstream("-mmap", 'weightstream, backend="mmap", every page touched', backend="mmap"),
        _weightstream("-256m", 'weightstream, memory_limit="256MiB"', memory_limit="256MiB"),
        _drop_in("safe-open", "safe_open", way="open"),
        _drop_in("safe-open-slices", "safe_open, get_slice(...)[...]", way="slices"),
        _drop_in("load-file", "load_file", way="load"),
        _safetensors("", "safetensors safe_open (mmap), every page touched", way="open", backend="mmap"),
        _safetensors(
            "-slices",
            "safetensors safe_open (mmap), get_slice(...)[...], every page touched",
            way="slices",
            backend="mmap",
        ),
        _safetensors("-pread", 'safetensors safe_open, backend="pread"', way="open", backend="pread"),
        _safetensors("-load-file", "safetensors load_file (mmap), every page touched", way="load", backend="mmap"),
        _safetensors(
            "-next", "safetensors 0.9rc safe_open (mmap), every page touched", way="open", backend="mmap", next=True
        ),
        _safetensors(
            "-next-pread", 'safetensors 0.9rc safe_open, backend="pread"', way="open", backend="pread", next=True
        ),
        _safetensors(
            "-next-prefetch",
            "safetensors 0.9rc safe_open().prefetch()",
            devices=_CUDA,
            way="prefetch",
            backend="mmap",
            next=True,
        ),
        Contender(
            "runai",
            "runai",
            "runai_model_streamer",
            "Run:ai model streamer, everything at its default",
            devices=_ANY,
        ),
        Contender(
            "runai-256m",
            "runai",
            "runai_model_streamer",
            "Run:ai model streamer, RUNAI_STREAMER_MEMORY_LIMIT of 256 MiB",
            environment={"RUNAI_STREAMER_MEMORY_LIMIT": str(256 << 20)},
        ),
        Contender("fastsafetensors", "fastsafetensors", "fastsafetensors", "fastsafetensors, nogds", devices=_ANY),
        _instanttensor("", "InstantTensor, everything at its default"),
        _instanttensor("-buffered", "InstantTensor, through the page cache (BackendPolicy.BUFFERED)", buffered=True),
        _pinned("", "bare copy out of pinned memory, tensor by tensor: the link's limit", whole=False),
        _pinned("-whole", "bare copy out of pinned memory, the file in one piece", whole=True),
        Contender(
            "tensorizer", "tensorizer", "tensorizer", "tensorizer, from a file in its own format", own_format=True
        ),
        Contender(
            "weightstream-s3",
            "weightstream",
            "weightstream",
            "weightstream, S3 (boto3 signs), everything at its default",
            {"s3": True},
            from_urls=True,
        ),
        Contender(
            "transformers",
            "pretrained",
            "transformers",
            "transformers from_pretrained (mmap), every page touched",
            {"weightstream": False},
        ),
        Contender(
            "transformers-weightstream",
            "pretrained",
            "transformers",
            "transformers from_pretrained through weightstream, every page touched",
            {"weightstream": True},
        ),
        *(_weightstream_at(concurrency) for concurrency in (16, 32, 64, 128)),
        *(_sockets(connections) for connections in (4, 16, 64)),
        *(_threads("obstore", concurrency) for concurrency in (16, 32, 64)),
        _threads("boto3", 16),
        _runai_s3("", "Run:ai model streamer, S3, everything at its default"),
        _runai_s3(
            "-256m",
            "Run:ai model streamer, S3, RUNAI_STREAMER_MEMORY_LIMIT of 256 MiB",
            RUNAI_STREAMER_MEMORY_LIMIT=str(256 << 20),
        ),
        *(_runai_s3_at(concurrency) for concurrency in (16, 32, 64)),
        Contender(DISK, "fio", "fio", "fio, direct reads of the same files into reused buffers: the disk's own limit"),
    )
}
