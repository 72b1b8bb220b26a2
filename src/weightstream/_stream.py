"""Streams: a running load, and what it did."""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import _config, _core, _log, sources
from ._core import Stream as CoreStream
from ._errors import ClosedError, ConfigError

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._checkpoint import Checkpoint
    from ._progress import Progress
    from .frameworks import Take
    from .sources.renewal import Renewer


@dataclass(frozen=True)
class StreamStats:
    """What a stream did so far, and where it waited.

    Attributes:
        tensors: number handed out.
        bytes: bytes of the tensors handed out.
        bytes_total: bytes of all tensors that the stream yields.
        bytes_read: bytes that storage delivered; more than `bytes` where small gaps are read through.
        reads: reads completed.
        retries: reads, or parts of one, that had to be tried again.
        seconds: from the call of `stream` until the last tensor, or until now.
        first_tensor_seconds: from the call of `stream` until the first tensor.
        wait_storage_seconds: the consumer waited for storage.
        wait_device_seconds: the consumer waited for copies to the device, which storage was ahead of.
        wait_consumer_seconds: reading waited for the consumer, at the memory limit.
        peak_host_bytes: the most bytes of host memory in flight, or ready but not taken, at any time.
        peak_device_bytes: the most bytes of device memory allocated for tensors that were not handed out, at any time.
        readers: bytes read, by reader.
        reasons: why each source's reader was chosen, by path or URL; and by a device such as "cuda:0", why copies to it
            start from memory that is not pinned, where the system refuses that.

    """

    tensors: int
    bytes: int
    bytes_total: int
    bytes_read: int
    reads: int
    retries: int
    seconds: float
    first_tensor_seconds: float
    wait_storage_seconds: float
    wait_device_seconds: float
    wait_consumer_seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    readers: Mapping[str, int]
    reasons: Mapping[str, str]

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes handed out per second, in GB (1e9 bytes)."""
        return self.bytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "gigabytes_per_second": self.gigabytes_per_second}


_open_streams: weakref.WeakSet[TensorStream] = weakref.WeakSet()


@atexit.register
def _close_open_streams() -> None:
    # Core threads must be gone before the interpreter takes its modules apart.
    for stream in list(_open_streams):
        stream.close()
    # Copies may end later still, and with them what their memory belongs to.
    _core.interpreter_ends()
    # And the pool's memory is unpinned while the driver is well: it ends with the process, too.
    _core.release_pinned_memory()


class TensorStream:
    """An iterator of (name, tensor), running since it was made. Made by `weightstream.stream`.

    A tensor that was handed out is the caller's: it stays valid and unchanged after the next one, after `close()`, and
    after the file is gone. One consumer at a time. Leaving the ``with`` block, exhausting the stream, an error, or
    dropping it stops all reading and joins every thread.

    Raises (from iteration):
        WeightstreamError: whatever reading met; the stream is closed then. ClosedError after `close()`.

    Example:
        >>> with ws.stream("model.safetensors") as s:
        ...     for name, tensor in s:
        ...         model.get_parameter(name).data = tensor
        ...     print(s.stats.gigabytes_per_second, "GB/s")

    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        core: CoreStream,
        take: Take[Any],
        *,
        nbytes: int,
        renewer: Renewer,
        progress: Progress | None = None,
        trace: str | None = None,
        owns_checkpoint: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self._core = core
        self._take = take
        self._nbytes = nbytes
        self._renewer = renewer
        self._progress = progress
        self._trace = trace
        self._owns_checkpoint = owns_checkpoint
        self._ready: list[tuple[str, Any]] = []  # last in, next out
        self._exhausted = False
        self._closed = False
        self._fetching = threading.Lock()
        self._process = os.getpid()
        self._closing = threading.RLock()
        if progress is not None:
            # A bar has a thread of its own, which would outlive a stream that is dropped.
            weakref.finalize(self, progress.close)
        renewer.start()
        _open_streams.add(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> tuple[str, Any]:
        try:
            return self._ready.pop()
        except IndexError:
            pass  # and not from here, where every error would drag this one along
        return self._next_batch()

    def _next_batch(self) -> tuple[str, Any]:
        if self._exhausted:
            raise StopIteration
        # In a forked child the lock may be held for ever; there the core says what is wrong.
        if not self._fetching.acquire(blocking=False) and os.getpid() == self._process:
            raise ConfigError("another thread is in next() of this stream; a stream has one consumer at a time")
        try:
            batch = self._fetch()
            if batch:
                first = batch[0]
                batch.reverse()
                batch.pop()
                self._ready = batch  # before the lock goes: the next thread's batch must not meet this one
                return first
            self._exhausted = True
            self.close()
        except BaseException:
            self.close()
            raise
        finally:
            self._fetching.release()
        raise StopIteration

    def _fetch(self) -> list[tuple[str, Any]]:
        batch = self._take()
        if self._closed:
            raise ClosedError("the stream was closed by another thread")
        if self._progress is not None:
            self._show_progress()
        return batch

    def __len__(self) -> int:
        """Number of tensors that the stream yields in all."""
        return len(self._core)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that the stream yields."""
        return self._nbytes

    @property
    def closed(self) -> bool:
        """Whether reading has ended, for whatever reason."""
        return self._closed

    @property
    def stats(self) -> StreamStats:
        """A snapshot; works at any time, also after `close()`."""
        paths = self.checkpoint.paths
        reasons = {paths[source]: reason for source, reason in self._core.reasons()}
        if not_pinned := self._core.not_pinned():
            reasons.update([not_pinned])
        return StreamStats(**self._core.stats(), reasons=reasons)

    def close(self) -> None:
        """Stops reading, joins every thread and gives back what was not handed out. Idempotent."""
        if os.getpid() != self._process:  # locks may have been held at the fork; threads are the parent's
            self._closed = True
            self._core.close()
            return
        with self._closing:  # who comes second returns when it is done, too
            if self._closed:
                return
            self._closed = True
            self._core.close()
            self._renewer.stop()
            if self._owns_checkpoint:
                self.checkpoint._park()
            self._ready = []
            _open_streams.discard(self)
            self._forward_log()
            self._write_trace()
            if self._progress is not None:
                self._progress.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TensorStream cannot be pickled: it is running; open a stream in the other process")

    def __repr__(self) -> str:
        stats = self._core.stats()
        state = "closed" if self._closed else "open"
        return f"<TensorStream {state}: {stats['tensors']} of {len(self)} tensors, {stats['bytes']} bytes>"

    def _forward_log(self) -> None:
        _log.forward(self._core.drain_log())

    def _write_trace(self) -> None:
        if self._trace is None:
            return
        from . import _trace

        try:
            _trace.write(self._trace, self._core.trace(), self.checkpoint.paths)
        except OSError as error:  # it says nothing about the tensors
            _log.logger.warning("the trace could not be written to %s: %s", self._trace, error)

    def _show_progress(self) -> None:
        stats = self._core.stats()
        assert self._progress is not None
        self._progress.update(stats["bytes"], stats["tensors"])


def stream(
    location: sources.Location,
    *,
    device: _config.Device | None = None,
    framework: str | None = None,
    names: _config.Names | None = None,
    order: str | None = None,
    memory_limit: _config.Size | None = None,
    device_limit: _config.Size | None = None,
    concurrency: int | None = None,
    backend: str | None = None,
    progress: bool | None = None,
    dtype: Any = None,
    into: Mapping[str, Any] | None = None,
    trace: str | os.PathLike[str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> TensorStream:
    """Streams the tensors of a checkpoint: each is handed out as soon as its own bytes are there.

    Args:
        location: a file, an index, a directory, a glob, or a sequence of these. Each is a local path or a URL: ``s3://``,
            ``gs://``, ``az://``, ``https://`` (no directories, no globs) or ``hf://``.
        device: where the tensors go, default ``"cpu"``. A str, an int (an accelerator's index) or a torch.device.
        framework: ``"pt"`` (torch, the default) or ``"numpy"``.
        names: only these: an iterable of names, or a function of a name. Only their bytes are read.
        order: ``"arrival"`` (the default) or ``"file"``, exact file order.
        memory_limit: bytes in flight or ready but not taken, an int or text such as ``"2GiB"``. Default: 4 GiB, or a
            quarter of the available memory where that is less. One tensor larger than the limit is still loaded.
        device_limit: bytes of device memory that are allocated for tensors which are not handed out yet. Default:
            2 GiB. The tensors that share reads with the oldest unfinished one are allocated in any case, and `load`
            takes all.
        concurrency: the most reads in flight, of URLs the most connections; default: found out while reading.
        backend: ``"auto"`` (the default), ``"uring"``, ``"pread"``, ``"mmap"`` (zero-copy, but the tensors are then the
            file's pages: see the caveat in docs/semantics.md), or ``"gds"`` (GPUDirect Storage: straight to a CUDA
            device, where that works; elsewhere ``"auto"``, and `stats.reasons` says why). For local files; URLs have
            one reader.
        progress: show a progress bar on standard error.
        dtype: what floating-point tensors of 16 bits and more are cast to, on their device: a dtype of the framework or
            its name, such as ``"bfloat16"``. Default: what they are in the file.
        into: tensors of the caller's, by name, that the bytes go to: for a reload in place, without a second
            allocation. Each has the dtype, shape and device that it would be handed out with, and is handed out itself.
            Default for `names`: those of `into`. After an error their contents are undefined.
        trace: a file that gets what the stream did when, as JSON for https://ui.perfetto.dev or chrome://tracing: the
            reads of each reader, the copies to a device, and what the consumer waited for. Written when it is closed.
        storage_options: how remote storage is reached: credentials, endpoint, CA bundle, and the numbers of the HTTP
            reader, as docs/reference/python.md lists them. Most programs need none: credentials are found where the
            storage's own tools find them. Local files take none.

    Every keyword that is None is taken from ``WEIGHTSTREAM_<KEYWORD>`` in the environment if it is set there.

    Raises:
        ConfigError: a setting or a location that cannot work.
        NotFoundError, AuthError, StorageError: a file or object cannot be opened or read.
        FormatError: not a valid safetensors file or index.
        ThrottledError, ServerError, ProtocolError, TimeoutError: a storage service that fails, cannot be reached, or
            answers something else than was asked for.
        DeviceError: the device is not there.

    Example:
        >>> with ws.stream("model/", device="cpu", memory_limit="1GiB") as s:
        ...     for name, tensor in s: ...
        >>> with ws.stream("s3://models/llama", storage_options={"endpoint_url": "https://minio.example:9000"}) as s:
        ...     for name, tensor in s: ...

    """
    from ._checkpoint import Checkpoint

    called = time.monotonic()
    settings = _config.resolve(
        device=device,
        framework=framework,
        names=names,
        order=order,
        memory_limit=memory_limit,
        device_limit=device_limit,
        concurrency=concurrency,
        backend=backend,
        progress=progress,
        dtype=dtype,
        into=into,
        trace=trace,
        storage_options=storage_options,
    )
    return Checkpoint._open(location, settings)._start(settings, called, owned=True)


def release_pinned_memory() -> None:
    """Returns the pinned host memory of streams to GPUs that no stream uses now.

    It belongs to the process, and is kept for half a minute after its last use, because pinning takes a tenth of a
    second per GB. Streams that run are not disturbed.

    Example:
        >>> weights = ws.load("model/", device="cuda:0")
        >>> ws.release_pinned_memory()

    """
    _core.release_pinned_memory()


def load(location: sources.Location, **settings: Any) -> dict[str, Any]:
    """Loads all tensors of a checkpoint (or those of `names`) and returns them by name, in file order.

    Takes the keywords of `stream`, raises what it raises.

    Example:
        >>> weights = ws.load("model.safetensors", framework="numpy")
        >>> weights = ws.load("hf://Qwen/Qwen3-0.6B", names=lambda name: name.startswith("model.layers.0."))

    """
    from ._checkpoint import Checkpoint

    called = time.monotonic()
    resolved = _config.resolve(**settings)
    with Checkpoint._open(location, resolved)._start(resolved, called, owned=True, whole=True) as running:
        return running.checkpoint._collect(running)
