"""Ranges of files and objects, whatever they hold: FileChunks says which, FileStreamer brings them."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from .. import _config, _core, _log
from .._errors import ClosedError, ConfigError, TruncatedError
from .._raw import raw_stream
from ..sources import files_of, list_folder
from ..sources.renewal import Renewer
from . import _environment
from ._errors import RunaiStreamerInvalidInputException, as_value_errors
from .credentials import S3Credentials, shown, storage_options

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

    from .._core import HostTensor


@dataclass(eq=False)
class FileChunks:
    """Ranges of one file, in any order, with gaps or overlaps or without.

    Attributes:
        id: what `get_chunks` calls the file; another one for each FileChunks of a request.
        path: a local path or a URL.
        offsets: where each range begins, in bytes of the file.
        sizes: how many bytes each has; 0 is allowed.

    Raises:
        ValueError: there are not as many offsets as sizes.

    Example:
        >>> FileChunks(0, "s3://models/llama/model.safetensors", [0, 4096], [8, 1024])
        >>> FileChunks.contiguous(1, "model.bin", 4096, [100, 200])  # bytes 4096 to 4196, and on to 4396

    """

    id: int
    path: str
    offsets: list[int]
    sizes: list[int]

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.sizes):
            raise ConfigError(
                f"{len(self.offsets)} offsets and {len(self.sizes)} sizes: a range has one of each",
                source=shown(self.path),
            )

    def __repr__(self) -> str:
        """Without the ranges, which may be many, and without secrets of a URL."""
        path, count = shown(self.path), len(self.sizes)
        return f"FileChunks(id={self.id!r}, path={path!r}, num_ranges={count}, total_size={self.total_size()})"

    @staticmethod
    def contiguous(id: int, path: str, offset: int, sizes: list[int]) -> FileChunks:
        """Ranges that follow each other from `offset` on."""
        offsets = []
        for size in sizes:
            offsets.append(offset)
            offset += size
        return FileChunks(id, path, offsets, sizes)

    def total_size(self) -> int:
        """Bytes of all ranges."""
        return sum(self.sizes)

    def max_chunk_size(self) -> int:
        """Bytes of the largest range."""
        return max(self.sizes)


def host_or_device(device: str | torch.device | None) -> str:
    """The device as text; None is the CPU.

    Raises:
        RunaiStreamerInvalidInputException: torch knows no such device.

    """
    import torch

    try:
        found = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError) as error:
        raise RunaiStreamerInvalidInputException(f"device={device!r} is not a device that torch knows") from error
    return "cpu" if found.type == "cpu" else str(found)


class FileStreamer:
    """Brings ranges of files, many at a time. A context manager; one request at a time.

    Example:
        >>> with FileStreamer() as streamer:
        ...     streamer.stream_files([FileChunks.contiguous(0, "model.bin", 0, [1024, 1024])])
        ...     for id, index, buffer in streamer.get_chunks():
        ...         print(id, index, buffer.shape)  # 0 0 torch.Size([1, 1024])

    """

    def __init__(self) -> None:
        self._request: _Request | None = None
        self._credentials: S3Credentials | None = None
        self._entered = False

    def __enter__(self) -> Self:
        self._entered = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        self._credentials = None
        self._end()

    def credentials_for(self, given: S3Credentials | None) -> S3Credentials | None:
        """Those that a call gives, and that the next ones need not; else those that an earlier one gave."""
        self._credentials = given or self._credentials
        return self._credentials

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None = None,
        device: str | torch.device | None = "cpu",
        memory_limit: int | None = None,
        owned: bool = True,  # noqa: ARG002
    ) -> None:
        """Starts to read; `get_chunks` has the ranges.

        Args:
            file_stream_requests: which ranges of which files or objects.
            credentials: for ``s3://`` paths, of this call and those after it. Default: those of an earlier call.
            device: where the bytes go.
            memory_limit: bytes in flight, -1 for no limit, 0 for the least. Default: RUNAI_STREAMER_MEMORY_LIMIT.
            owned: every buffer is the caller's, whatever this says.

        Raises:
            ValueError: a path or a setting that cannot work, or ranges of the last request are outstanding; it is also
                an error of `weightstream`, such as NotFoundError.

        """
        if not self._entered:
            raise ClosedError("the streamer is not open; use it as `with FileStreamer() as streamer:`")
        if self._request is not None:
            raise ConfigError(
                "ranges of the last request are outstanding; take all of get_chunks() first, or close() it"
            )
        where = host_or_device(device)
        with as_value_errors():
            credentials = self.credentials_for(credentials)
            self._request = _Request(list(file_stream_requests), credentials, where, memory_limit)

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """The ranges as they come: (id of the FileChunks, index of the range in it, its bytes).

        The bytes are a uint8 tensor of shape (1, size) on the device. They are the caller's: valid and unchanged for as
        long as they are held.

        Raises:
            ValueError: reading failed, or a range is not in its file; it is also an error of `weightstream`.

        """
        if not self._entered:
            raise ClosedError("the streamer is not open; use it as `with FileStreamer() as streamer:`")
        request = self._request
        if request is None:
            return
        try:
            with as_value_errors():
                yield from request.ranges()
        finally:
            self._end(request)

    def list_files(
        self,
        prefix: str,
        is_recursive: bool = True,
        allow_patterns: list[str] | None = None,
        ignore_patterns: list[str] | None = None,
    ) -> list[tuple[str, int]]:
        """The files of a folder or prefix, as (path, bytes). Works without ``with``, too.

        Args:
            prefix: a local folder, or a URL.
            is_recursive: also those of the folders in it.
            allow_patterns: globs of whole paths, or URLs: only files that match one ([]: all). "*" matches "/" too.
            ignore_patterns: globs of whole paths, or URLs: not those that match one.

        Raises:
            ValueError: it cannot be listed; it is also an error of `weightstream`.

        """
        with as_value_errors():
            found = list_folder(prefix, storage_options([prefix], self._credentials), recursive=is_recursive)
        return [(path, size or 0) for path, size in found if selected(path, allow_patterns or None, ignore_patterns)]

    def _end(self, request: _Request | None = None) -> None:
        """Ends the request that runs; nothing if it is not `request` any more."""
        running = self._request
        if running is not None and request in (None, running):
            self._request = None
            running.close()


def selected(text: str, allow: Sequence[str] | None, ignore: Sequence[str] | None) -> bool:
    """Whether a path or key matches one of the globs of `allow` (None: any does) and none of `ignore`."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(text, pattern) for pattern in patterns)

    return (allow is None or matches(allow)) and not matches(ignore or ())


class _Request:
    """The ranges of one call of stream_files, which are being read since it was made."""

    def __init__(
        self, files: list[FileChunks], credentials: S3Credentials | None, device: str, memory_limit: int | None
    ) -> None:
        self._files = files
        self._device = device
        settings = _config.resolve(
            memory_limit=_environment.memory_limit(memory_limit), concurrency=_environment.concurrency()
        )
        self._limits = {"memory_limit": settings.memory_limit, "concurrency": settings.concurrency}
        self._process = os.getpid()
        self._stack = ExitStack()
        self._ready: list[tuple[int, HostTensor]] = []  # last in, next out
        self._outside: TruncatedError | None = None
        self._rounds = _rounds(files)
        if not self._rounds:
            return
        paths = [file.path for file in files]
        try:
            sources = files_of(paths, storage_options(paths, credentials))
            renewer = self._stack.enter_context(Renewer(sources))
            with _log.forwarding() as log:
                self._opened = _core.Sources.open(renewer.objects, log)
            self._stack.callback(self._opened.park)
            self._reading = self._stack.enter_context(ExitStack())
            self._outside = self._find_outside()
            if self._outside is None:
                self._start(self._rounds[0])
        except BaseException:
            self._stack.close()
            raise

    def ranges(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """Each range as it comes."""
        if self._outside is not None:
            raise self._outside
        for number, ranges in enumerate(self._rounds):
            if number > 0:
                self._start(ranges)
            yield from self._receive(ranges)

    def close(self) -> None:
        """Stops reading, joins every thread and gives back what was not handed out. Idempotent."""
        if os.getpid() != self._process:  # locks may have been held at the fork; threads are the parent's
            return
        self._ready.clear()
        self._stack.close()

    def _receive(self, ranges: list[_Range]) -> Iterator[tuple[int, int, torch.Tensor]]:
        import torch

        while batch := self._stream.next():
            batch.reverse()
            self._ready = batch
            while self._ready:  # what was handed out is not held here
                number, data = self._ready.pop()
                asked = ranges[number]
                buffer = torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0, dtype=torch.uint8)
                del data
                yield self._files[asked.file].id, asked.number, buffer.view(1, -1).to(self._device)
                del buffer

    def _start(self, ranges: list[_Range]) -> None:
        """Starts to read a round. That of the round before ends."""
        self._reading.close()
        wanted = [(one.file, one.begin, one.end) for one in ranges]
        self._stream = self._reading.enter_context(raw_stream(self._opened, wanted, **self._limits))

    def _find_outside(self) -> TruncatedError | None:
        for ranges in self._rounds:
            for one in ranges:
                size = self._opened.size(one.file)
                if one.end > size:
                    return TruncatedError(
                        "the file ends before the range does",
                        source=shown(self._files[one.file].path),
                        range=(one.begin, one.end),
                        expected=one.end,
                        got=size,
                    )
        return None


class _Range(NamedTuple):
    """Bytes [begin, end) of a file of a request, the range `number` of its FileChunks."""

    file: int
    begin: int
    end: int
    number: int


def _rounds(files: Sequence[FileChunks]) -> list[list[_Range]]:
    """The ranges in file order, in as many rounds as it takes that none overlaps another of its round: mostly one.

    Raises:
        ConfigError: a negative offset or size.

    """
    rounds: list[list[_Range]] = []
    for ranges in (_ranges(number, file) for number, file in enumerate(files)):
        for one in ranges:
            for earlier in rounds:
                if earlier[-1].file != one.file or earlier[-1].end <= one.begin:
                    earlier.append(one)
                    break
            else:
                rounds.append([one])
    return rounds


def _ranges(number: int, file: FileChunks) -> list[_Range]:
    if any(offset < 0 for offset in file.offsets) or any(size < 0 for size in file.sizes):
        raise ConfigError("a range has a negative offset or size", source=shown(file.path))
    pairs = zip(file.offsets, file.sizes, strict=True)
    return sorted(_Range(number, offset, offset + size, index) for index, (offset, size) in enumerate(pairs))
