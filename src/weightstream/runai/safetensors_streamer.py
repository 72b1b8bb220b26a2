"""SafetensorsStreamer: the tensors of safetensors files, as they come."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING

from .. import Checkpoint, TensorStream, frameworks
from .._errors import ClosedError, ConfigError
from . import _environment, _log
from ._errors import as_value_errors
from .credentials import S3Credentials, shown
from .distributed_streamer import DistributedStreamer, note_ranks
from .file_streamer import host_or_device
from .safetensors_metadata import Headers, SafetensorMetadata, opened

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


class SafetensorsStreamer:
    """Streams safetensors files from disks and storages. A context manager; one load at a time.

    Every tensor is the caller's: it stays valid and unchanged while the iteration goes on, after the ``with`` block,
    and after the file is gone. No clone is needed.

    Attributes:
        files_to_tensors_metadata: what the headers say of the tensors to come: position of the path -> one entry for
            each tensor, in file order.
        total_size: bytes of all of them.
        file_streamer: for ranges of one's own, see `prepare_request`.

    Example:
        >>> with SafetensorsStreamer() as streamer:
        ...     streamer.stream_file("s3://models/llama/model.safetensors", device="cuda:0")
        ...     weights = dict(streamer.get_tensors())

    """

    def __init__(self) -> None:
        self.file_streamer = DistributedStreamer()
        self.files_to_tensors_metadata: dict[int, Sequence[SafetensorMetadata]] = {}
        self.total_size = 0
        self.device_str: str | None = None
        self.start_time: float | None = None
        self._load: _Load | None = None
        self._entered = False

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        try:
            self._end()
        finally:
            self.file_streamer.__exit__(kind, error, traceback)

    def stream_file(
        self,
        path: str,
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,
    ) -> None:
        """As `stream_files`, of one file."""
        self.stream_files([path], s3_credentials, device, is_distributed, tensor_names, owned)

    def stream_files(
        self,
        paths: Sequence[str],
        s3_credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        is_distributed: bool = False,
        tensor_names: Collection[str] | None = None,
        owned: bool = True,  # noqa: ARG002
    ) -> None:
        """Reads the headers and starts to read the tensors; `get_tensors` has them.

        Args:
            paths: local paths and URLs, of every storage that `weightstream.stream` takes.
            s3_credentials: for ``s3://`` paths, of this call and those after it. Default: those of an earlier call, or
                what boto3 finds.
            device: where the tensors go, None for the CPU.
            is_distributed: taken, and every rank reads by itself, see DistributedStreamer.
            tensor_names: only these, and only their bytes are read. Default: all.
            owned: every tensor is the caller's, whatever this says.

        Raises:
            ValueError: a file cannot be opened or is not valid, no file has a tensor of `tensor_names` or several have
                it, tensors of the last call are outstanding, or a setting cannot work. It is also an error of
                `weightstream`, such as FormatError or NotFoundError.

        """
        if not self._entered:
            raise ClosedError("the streamer is not open; use it as `with SafetensorsStreamer() as streamer:`")
        if self._load is not None:
            raise ConfigError(
                "tensors of the last call are outstanding; take all of get_tensors() first, or close() it"
            )
        if isinstance(paths, str):
            raise ConfigError(f"paths={shown(paths)!r} is one str; give a list of paths, or call stream_file")
        paths = [os.fspath(path) for path in paths]
        names = _names(tensor_names)
        self.files_to_tensors_metadata = {}
        self.total_size = 0
        self.device_str = host_or_device(device)
        self.start_time = time.monotonic()
        note_ranks(is_distributed)
        with as_value_errors():
            credentials = self.file_streamer.credentials_for(s3_credentials)
            self._load = _Load(paths, credentials, self.device_str, names)
        self.files_to_tensors_metadata = self._load.headers.metadata()
        self.total_size = self._load.headers.nbytes

    def get_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors as they come: (name, tensor). A name that several files have comes once for each.

        Raises:
            ValueError: reading failed; it is also an error of `weightstream`, such as SourceChangedError.

        """
        if not self._entered:
            raise ClosedError("the streamer is not open; use it as `with SafetensorsStreamer() as streamer:`")
        load = self._load
        if load is None:
            return
        try:
            with as_value_errors():
                yield from load.tensors()
            if self.start_time is not None and self.device_str is not None:
                _log.throughput(self.total_size, self.device_str, time.monotonic() - self.start_time)
        finally:
            self._end(load)

    def _end(self, load: _Load | None = None) -> None:
        """Ends the load that runs; nothing if it is not `load` any more."""
        running = self._load
        if running is not None and load in (None, running):
            self._load = None
            running.close()


class _Load:
    """One call of stream_files: checkpoints, of which the first is being read since this was made."""

    def __init__(
        self, paths: Sequence[str], credentials: S3Credentials | None, device: str, names: frozenset[str] | None
    ) -> None:
        self._device = device
        self._names = names
        self._limits = {
            "memory_limit": _environment.memory_limit(least=_least_limit(device)),
            "concurrency": _environment.concurrency(),
        }
        self._stack = ExitStack()
        try:
            self.checkpoints = self._stack.enter_context(opened(paths, credentials))
            if names is not None:
                _check_each_once(names, self.checkpoints)
            self.headers = Headers(self.checkpoints, names)
            self._streams = [self._start(checkpoint) for checkpoint in self.checkpoints[:1]]
        except BaseException:
            self._stack.close()
            raise

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Each tensor as it comes, of one checkpoint after the other."""
        for number, checkpoint in enumerate(self.checkpoints):
            with self._streams[0] if number == 0 else self._start(checkpoint) as stream:
                yield from stream

    def close(self) -> None:
        """Stops reading and joins every thread. Idempotent."""
        self._stack.close()

    def _start(self, checkpoint: Checkpoint) -> TensorStream:
        names = self._names if self._names is None else [name for name in checkpoint if name in self._names]
        return self._stack.enter_context(
            checkpoint.stream(device=self._device, framework="pt", names=names, **self._limits)
        )


def _least_limit(device: str) -> int:
    """The least memory limit, in bytes, that a stream to the device can have."""
    on_gpu = frameworks.get("pt", device).target(0) is not None
    return _environment.LEAST_PINNED_BYTES if on_gpu else _environment.LEAST_BYTES


def _names(given: Collection[str] | None) -> frozenset[str] | None:
    if given is None:
        return None
    if isinstance(given, str):
        raise ConfigError(f"tensor_names={given!r} is one str; give a collection of names")
    if not given:
        raise ConfigError("tensor_names is empty; give None for all tensors")
    return frozenset(given)


def _check_each_once(names: frozenset[str], checkpoints: Sequence[Checkpoint]) -> None:
    found = Counter(name for checkpoint in checkpoints for name in checkpoint if name in names)
    missing = sorted(names - found.keys())
    if missing:
        raise ConfigError(f"tensor_names has names that no file has: {missing}")
    several = sorted(name for name, files in found.items() if files > 1)
    if several:
        raise ConfigError(f"tensor_names has names that more than one file has: {several}")
