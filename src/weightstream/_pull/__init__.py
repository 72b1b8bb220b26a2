"""Copying the files of a model from any storage into a folder. The command `weightstream pull` is its face."""

from __future__ import annotations

import fnmatch
import os
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

from .. import _config
from .._errors import ConfigError, NotFoundError
from ..sources import File, LocalSource, list_files
from .destination import METADATA, Destination, Lock
from .transfer import transfer

__all__ = ["METADATA", "Pulled", "pull", "pull_files"]

_MOST_TOGETHER = 256


@dataclass(frozen=True)
class Pulled:
    """What a pull did.

    Attributes:
        files: files that were pulled.
        bytes: bytes that were pulled for them.
        skipped: files that were complete already, in this version.
        skipped_bytes: bytes of those.
        kept_bytes: bytes of the files that an earlier attempt had left.
        bytes_read: bytes that storage delivered.
        retries: reads that had to be tried again.
        seconds: from the call until the last file.

    """

    files: int
    bytes: int
    skipped: int
    skipped_bytes: int
    kept_bytes: int
    bytes_read: int
    retries: int
    seconds: float

    @property
    def gigabytes_per_second(self) -> float:
        """Bytes pulled per second, in GB (1e9 bytes)."""
        return self.bytes / self.seconds / 1e9 if self.seconds > 0 else 0.0

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "gigabytes_per_second": self.gigabytes_per_second}


def pull(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] | None = None,
    force: bool = False,
    memory_limit: _config.Size | None = None,
    concurrency: int | None = None,
    progress: bool | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Pulled:
    """Copies all files of `source` into the folder `destination`, unless they are there already.

    Several processes may pull to the same folder at once: each file is pulled by one of them, and the others wait for
    it. A pull that was interrupted goes on where it was when it is started again.

    Args:
        source: a file, a directory, a prefix, a repository, an index or a glob, local or a URL.
        destination: the folder; it is made if it is not there.
        include: globs of keys, as of fnmatch: only files that match one. Default: all.
        exclude: globs of keys: not those that match one.
        force: pull also what is there already, and from its beginning.
        memory_limit, concurrency, progress, storage_options: as of `weightstream.stream`.

    Raises:
        NotFoundError: there is no such source, or no file matches.
        FormatError: a key that is not the name of a file below the destination.
        ConfigError: a source or a setting that cannot work.
        SourceChangedError: a file was changed while it was pulled.
        AuthError, StorageError: a file cannot be read or written, or there is no space for it.
        WeightstreamError: what reading met.

    """
    called = time.monotonic()
    settings = _config.resolve(
        memory_limit=memory_limit, concurrency=concurrency, progress=progress, storage_options=storage_options
    )
    source = os.fspath(source)
    files = _select(list_files(source, settings.storage_options), source, include, exclude)
    return pull_files(files, destination, settings, force=force, called=called)


def pull_files(
    files: Sequence[File],
    destination: str | os.PathLike[str],
    settings: _config.Settings,
    *,
    force: bool = False,
    called: float | None = None,
) -> Pulled:
    """As `pull`, of files that were listed by `weightstream.sources.list_files`. `called` is when the pull began."""
    called = time.monotonic() if called is None else called
    _check_keys({file.key for file in files})
    _check_apart(files, destination)
    with Destination(os.fspath(destination)) as folder, ExitStack() as stack:
        job = _Job(folder, settings, force, stack)
        job.run(files)
    return Pulled(**job.totals, seconds=time.monotonic() - called)


class _Job:
    """A pull as it goes."""

    def __init__(self, folder: Destination, settings: _config.Settings, force: bool, stack: ExitStack) -> None:
        self._folder = folder
        self._settings = settings
        self._force = force
        self._stack = stack
        self._bar: Any = None
        self._shown = (0, 0)
        names = ("files", "bytes", "skipped", "skipped_bytes", "kept_bytes", "bytes_read", "retries")
        self.totals = dict.fromkeys(names, 0)

    def run(self, files: Sequence[File]) -> None:
        """Pulls what is not there; first what nobody else is pulling."""
        wanted = [file for file in files if self._force or not self._skip(file)]
        known = sum(max(0, (file.size or 0) - self._folder.allocated(file.key)) for file in wanted)
        self._folder.check_space(known)
        together = _most_together()
        taken = []
        for begin in range(0, len(wanted), together):
            taken += self._pull(wanted[begin : begin + together], wait=False)
        for file in taken:
            self._pull([file], wait=True)
        self._show(0, 0)

    def _pull(self, files: Sequence[File], *, wait: bool) -> list[File]:
        """Pulls these files but for those that another process is pulling, which it returns."""
        locked: list[tuple[File, Lock]] = []
        taken = []
        try:
            for file in files:
                lock = self._folder.lock(file.key, wait=wait)
                if lock is None:
                    taken.append(file)
                    continue
                locked.append((file, lock))
                # Another process may have pulled it while this one waited.
                if not self._force and self._skip(file):
                    locked.pop()[1].release()
            if locked:
                done = transfer(
                    self._folder,
                    locked,
                    anew=self._force,
                    memory_limit=self._settings.memory_limit,
                    concurrency=self._settings.concurrency,
                    started=lambda missing: self._start_bar(missing, files),
                    progress=self._show,
                )
                self.totals["files"] += done.files
                self.totals["bytes"] += done.bytes
                self.totals["kept_bytes"] += done.kept
                self.totals["skipped"] += done.skipped
                self.totals["skipped_bytes"] += done.skipped_bytes
                self.totals["bytes_read"] += done.bytes_read
                self.totals["retries"] += done.retries
        finally:
            for _, lock in locked:
                lock.release()
        return taken

    def _skip(self, file: File) -> bool:
        if not self._folder.is_complete(file):
            return False
        self.totals["skipped"] += 1
        self.totals["skipped_bytes"] += file.size or 0
        return True

    def _start_bar(self, missing: int, files: Sequence[File]) -> None:
        if not self._settings.progress:
            return
        from .._progress import Progress

        if self._bar is None:
            self._bar = self._stack.enter_context(Progress(0, 0, "pulling", noun="files"))
        self._bar.extend(missing, len(files))

    def _show(self, nbytes: int, files: int) -> None:
        if self._bar is not None:
            self._bar.update(self.totals["bytes"] + nbytes, self.totals["files"] + files)


def _select(
    files: Sequence[File], source: str, include: Sequence[str] | None, exclude: Sequence[str] | None
) -> list[File]:
    """The files that are wanted; what another pull has left in a folder is not a part of the model."""
    files = [file for file in files if file.key.partition("/")[0] != METADATA]

    def matches(key: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in patterns)

    wanted = [
        file for file in files if (not include or matches(file.key, include)) and not matches(file.key, exclude or ())
    ]
    if not wanted:
        hint = f": {len(files)} are there, but include and exclude leave none" if files else ""
        raise NotFoundError(f"there is no file to pull{hint}", source=_printable(source))
    return wanted


def _check_keys(keys: set[str]) -> None:
    """No file is where another one, or its folder, goes."""
    for key in keys:
        if key.endswith(".part") and key.removesuffix(".part") in keys:
            raise ConfigError(f"{key!r} is where {key.removesuffix('.part')!r} is written; exclude one of them")
        for end in (place for place, char in enumerate(key) if char == "/"):
            if key[:end] in keys:
                raise ConfigError(f"{key[:end]!r} is a file, and {key!r} lies below it; exclude one of them")


def _check_apart(files: Sequence[File], destination: str | os.PathLike[str]) -> None:
    """A folder is not pulled onto itself."""
    folder = os.path.realpath(destination)
    for file in files:
        if isinstance(file.source, LocalSource):
            there = os.path.join(folder, file.key)
            if os.path.realpath(file.source.path) == there:
                raise ConfigError("the destination is the source itself", source=there)


def _most_together() -> int:
    """How many files at once: each takes four descriptors, and the core needs some, too."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST_TOGETHER if limit < 0 else max(1, min(_MOST_TOGETHER, limit // 10))


def _printable(source: str) -> str:
    from ..sources.remote import printable

    return printable(source) if "://" in source else source
