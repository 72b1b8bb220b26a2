"""Files that are pulled together: one stream of the core reads their pieces, a few threads write them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import _log
from .._errors import ProtocolError, SourceChangedError, WeightstreamError
from .._raw import raw_stream
from ..sources import File, LocalSource, RemoteSource
from ..sources.local import version_of
from ..sources.renewal import Renewer
from .destination import Destination, Lock
from .part import Part

if TYPE_CHECKING:
    from .._core import RawStream

_WRITERS = 4
_WAITING = 8  # pieces on their way to a file, at most


@dataclass
class Transfer:
    """What came of a transfer. Bytes."""

    files: int = 0
    bytes: int = 0
    kept: int = 0  # of earlier attempts
    skipped: int = 0  # files that turned out to be complete when they were opened
    skipped_bytes: int = 0
    bytes_read: int = 0
    retries: int = 0


class Writers:
    """The threads that write. The first error of any of them is raised by the next call."""

    def __init__(self, finished: Callable[[Part], None]) -> None:
        self._pool = ThreadPoolExecutor(_WRITERS, "weightstream-write")
        self._places = threading.BoundedSemaphore(_WAITING)
        self._finished = finished
        self._failure: list[BaseException] = []

    def write(self, part: Part, begin: int, data: Any) -> None:
        """Writes a piece; waits while too many are on their way."""

        def work() -> None:
            if part.write(begin, memoryview(data)):
                self._finish(part)

        self._submit(work)

    def finish(self, part: Part) -> None:
        """Finishes a file of which nothing is missing."""
        self._submit(lambda: self._finish(part))

    def close(self) -> None:
        """Waits for what is on its way; raises nothing."""
        self._pool.shutdown(wait=True)

    def check(self) -> None:
        """Raises the first error."""
        if self._failure:
            raise self._failure[0]

    def _submit(self, work: Callable[[], object]) -> None:
        self._places.acquire()
        if self._failure:
            self._places.release()
            raise self._failure[0]
        self._pool.submit(self._run, work)

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:  # raised in the thread that reads
            self._failure.append(error)
        finally:
            self._places.release()

    def _finish(self, part: Part) -> None:
        part.finish()
        self._finished(part)


def transfer(
    destination: Destination,
    files: Sequence[tuple[File, Lock]],
    *,
    anew: bool,
    memory_limit: int,
    concurrency: int,
    started: Callable[[int], None],
    progress: Callable[[int, int], None],
) -> Transfer:
    """Pulls files whose locks this process holds. The locks are released, each when its file is complete.

    Args:
        destination: where to.
        files: what, in the order in which they are read.
        anew: what earlier attempts have left does not count.
        memory_limit, concurrency: of the stream, 0 for the core's own.
        started: is told how many bytes are missing, once.
        progress: is told how many bytes and files are there, again and again.

    """
    parts: dict[int, Part] = {}
    done = Transfer()
    core: Any = import_module("weightstream._core")
    try:
        with Renewer([file.source for file, _ in files]) as renewer:
            with _log.forwarding() as log:
                opened = core.Sources.open(renewer.objects, log)
            for position, (file, lock) in enumerate(files):
                size = opened.size(position)
                _check_same(file, size)
                if file.version is None and isinstance(file.source, RemoteSource):
                    object_: Any = renewer.objects[position]
                    file = replace(file, size=size, version=object_.version or None)
                    if not anew and destination.is_complete(file):
                        lock.release()
                        done.skipped += 1
                        done.skipped_bytes += size
                        continue
                parts[position] = Part(destination, file, size, file.version, lock, anew=anew)
            done.kept = sum(part.kept for part in parts.values())
            missing = sum(part.size for part in parts.values()) - done.kept
            destination.check_space(missing)
            started(missing)
            _read(opened, parts, done, memory_limit, concurrency, progress)
    finally:
        for part in parts.values():
            _let_go(part)
        for _, lock in files:
            lock.release()
    return done


def _read(
    opened: Any,
    parts: Mapping[int, Part],
    done: Transfer,
    memory_limit: int,
    concurrency: int,
    progress: Callable[[int, int], None],
) -> None:
    counting = threading.Lock()

    def finished(_: Part) -> None:
        with counting:
            done.files += 1
        progress(done.bytes, done.files)

    ranges: list[tuple[int, int, int]] = []
    writers = Writers(finished)
    try:
        for position, part in parts.items():
            missing = part.missing()
            head = opened.head(position)  # of an object that had to be opened by reading; most are small
            if missing and missing[0] == (0, part.size) and len(head) >= part.size:
                writers.write(part, 0, head[: part.size])
                done.bytes += part.size
            elif missing:
                ranges += [(position, begin, end) for begin, end in missing]
            else:
                writers.finish(part)
        if ranges:
            with raw_stream(opened, ranges, memory_limit=memory_limit, concurrency=concurrency) as stream:
                try:
                    _receive(stream, ranges, parts, writers, done, progress)
                finally:
                    done.bytes_read += stream.bytes_read()
                    done.retries += stream.retries()
    finally:
        writers.close()
    writers.check()
    unfinished = [part for part in parts.values() if not part.closed]
    if unfinished:
        raise ProtocolError("the reader ended before all of it was read", source=unfinished[0].file.source.name)


def _receive(
    stream: RawStream,
    ranges: list[tuple[int, int, int]],
    parts: Mapping[int, Part],
    writers: Writers,
    done: Transfer,
    progress: Callable[[int, int], None],
) -> None:
    while batch := stream.next():
        for number, data in batch:
            position, begin, end = ranges[number]
            if len(data) != end - begin:
                raise ProtocolError(
                    "the reader brought another number of bytes than were asked for",
                    source=parts[position].file.source.name,
                    range=(begin, end),
                    expected=end - begin,
                    got=len(data),
                )
            writers.write(parts[position], begin, data)
            done.bytes += end - begin
        del batch, data  # else they would count as held while the next are waited for
        progress(done.bytes, done.files)


def _check_same(file: File, size: int) -> None:
    """What was opened is what was listed. Remote objects are opened by the version that the listing gave."""
    changed = file.size is not None and file.size != size
    if isinstance(file.source, LocalSource) and file.version is not None:
        try:
            changed = changed or version_of(os.stat(file.source.path)) != file.version
        except OSError:  # it was opened a moment ago
            changed = True
    if changed:
        raise SourceChangedError(
            "it was changed since it was listed; pull again", source=file.source.name, expected=file.size, got=size
        )


def _let_go(part: Part) -> None:
    """Remembers what is there for another attempt. An error here must not hide the one that led here."""
    if part.closed:
        return
    try:
        part.save()
    except WeightstreamError as error:
        _log.logger.warning("what was pulled of it is lost: %s", error)
    finally:
        part.close()
