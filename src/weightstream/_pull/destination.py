"""The folder that files are pulled into: paths that cannot leave it, locks between processes, and what it remembers.

What it remembers lies in its hidden folder `.weightstream/`, in files named by the hash of a key:

    HASH.json       of a file that is complete: where it came from, its version, its size, its mtime
    HASH.part.json  of a file that is not: which pieces of NAME.part are on the disk, and of which version they are
    HASH.lock       while a process works on the file; whoever holds its flock may write NAME.part and NAME

Folders are walked one by one and never through a symbolic link, so that nothing is written outside, whatever somebody
has put into the folder.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._errors import AuthError, StorageError, WeightstreamError
from ..sources import File, LocalSource, names

if TYPE_CHECKING:
    from typing_extensions import Self

METADATA = ".weightstream"

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_log = logging.getLogger("weightstream")


@contextmanager
def translated(path: str, doing: str) -> Iterator[None]:
    """Turns the operating system's refusals into errors that name the path. Others pass."""
    try:
        yield
    except OSError as error:
        if isinstance(error, WeightstreamError):
            raise
        raise _translate(error, path, doing) from None


def _translate(error: OSError, path: str, doing: str) -> WeightstreamError:
    if isinstance(error, PermissionError):
        return AuthError(f"cannot {doing}: permission denied", source=path, errno=error.errno)
    reason = f"cannot {doing}: {error.strerror or type(error).__name__}"
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        reason = f"cannot {doing}: a part of its path is a symbolic link or a file, and is not followed; remove it"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason += "; make room and pull again: what is there is kept"
    return StorageError(reason, source=path, errno=error.errno)


class Lock:
    """The right to write one file; see `Destination.lock`."""

    def __init__(self, name: str, fd: int, folder: int) -> None:
        self._name = name
        self._fd = fd
        self._folder = folder

    def release(self) -> None:
        """Lets the next process have it. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            os.unlink(self._name, dir_fd=self._folder)
        except FileNotFoundError:  # somebody tidied up
            pass
        finally:
            os.close(fd)


class Destination:
    """The folder. A context manager; makes the folder when it is not there.

    Raises:
        AuthError, StorageError: it cannot be made or written.

    """

    def __init__(self, path: str) -> None:
        with translated(path, "make the folder"):
            os.makedirs(path, exist_ok=True)
            self.path = os.path.realpath(path)
            self._root = os.open(self.path, _FOLDER)
        try:
            with translated(self.path_of(METADATA), "make the folder"):
                self._metadata = self._enter(self._root, METADATA)
        except BaseException:
            os.close(self._root)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._metadata)
        os.close(self._root)

    def path_of(self, key: str) -> str:
        """Where a file goes, for messages."""
        return os.path.join(self.path, key)

    def open_folder(self, key: str) -> int:
        """A descriptor of the folder of a file, which is made if it is not there; the caller closes it.

        Raises:
            FormatError: the key is not the name of a file below the folder.
            AuthError, StorageError: the folder cannot be made, or a part of the path is a symbolic link.

        """
        names.check_key(key, self.path_of(""))
        with translated(self.path_of(key), "make its folder"):
            folder = os.dup(self._root)
            for part in key.split("/")[:-1]:
                try:
                    inner = self._enter(folder, part)
                finally:
                    os.close(folder)
                folder = inner
        return folder

    def is_complete(self, file: File) -> bool:
        """Whether this very version of the file was pulled before, and nobody has changed it since."""
        record = self.recall(file.key, "json")
        if record is None or file.version is None or file.size is None:
            return False
        try:
            found = os.stat(self._existing(file.key), follow_symlinks=False)
        except OSError:
            return False
        expected = self.record(file, file.size, file.version, found)
        return stat.S_ISREG(found.st_mode) and found.st_size == file.size and record == expected

    @staticmethod
    def record(file: File, size: int, version: str | None, status: os.stat_result) -> dict[str, Any]:
        """What is remembered of a file that is complete."""
        return {
            "key": file.key,
            "source": origin(file),
            "version": version,
            "size": size,
            "mtime_ns": status.st_mtime_ns,
        }

    def lock(self, key: str, *, wait: bool) -> Lock | None:
        """The right to write a file. None: another process has it, and `wait` is false."""
        name = _hash(key) + ".lock"
        with translated(self.path_of(key), "lock it"):
            while True:
                fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666, dir_fd=self._metadata)
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                    # Whoever had it has removed it by now: then there is another one.
                    if _is_at(fd, name, self._metadata):
                        return Lock(name, fd, self._metadata)
                except BlockingIOError:
                    os.close(fd)
                    return None
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        os.close(fd)
                        raise
                    _log.warning("%s: this filesystem has no locks; do not pull to it twice at once", self.path)
                    return Lock(name, fd, self._metadata)
                except BaseException:
                    os.close(fd)
                    raise
                os.close(fd)

    def recall(self, key: str, kind: str) -> dict[str, Any] | None:
        """What was remembered of a file; None when there is nothing, or nothing that makes sense."""
        try:
            fd = os.open(f"{_hash(key)}.{kind}", os.O_RDONLY | os.O_NOFOLLOW, dir_fd=self._metadata)
        except OSError:
            return None
        with open(fd, "rb") as file:
            try:
                found = json.load(file)
            except ValueError:
                return None
        return found if isinstance(found, dict) and found.get("key") == key else None

    def remember(self, key: str, kind: str, what: dict[str, Any]) -> None:
        """Remembers something of a file, all of it or nothing. For who holds its lock."""
        name = f"{_hash(key)}.{kind}"
        new = f"{name}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with translated(self.path_of(key), "remember how far it came"):
            with open(os.open(new, flags, 0o666, dir_fd=self._metadata), "w", encoding="utf-8") as file:
                json.dump(what, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, name, src_dir_fd=self._metadata, dst_dir_fd=self._metadata)

    def forget(self, key: str, kind: str) -> None:
        """Forgets it, before anything else happens."""
        with translated(self.path_of(key), "forget how far it came"), suppress(FileNotFoundError):
            os.unlink(f"{_hash(key)}.{kind}", dir_fd=self._metadata)
            sync_folder(self._metadata)

    def check_space(self, needed: int) -> None:
        """Raises StorageError when the filesystem has less than `needed` bytes left."""
        with translated(self.path, "look for space"):
            status = os.fstatvfs(self._root)
        free = status.f_bavail * status.f_frsize
        if free < needed:
            raise StorageError(
                f"there is not enough space: {needed} bytes are needed, and {free} are free",
                source=self.path,
                errno=errno.ENOSPC,
            )

    def allocated(self, key: str) -> int:
        """Bytes on the disk of what was pulled of a file that is not complete."""
        try:
            return os.stat(self._existing(key) + ".part", follow_symlinks=False).st_blocks * 512
        except OSError:
            return 0

    def _existing(self, key: str) -> str:
        return os.path.join(self.path, *key.split("/"))

    @staticmethod
    def _enter(folder: int, name: str) -> int:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, _FOLDER, dir_fd=folder)


def origin(file: File) -> str:
    """Where a file comes from, wherever this process stands."""
    source = file.source
    return os.path.realpath(source.path) if isinstance(source, LocalSource) else source.name


def sync_folder(folder: int) -> None:
    """Makes renames in a folder last."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some filesystems cannot, and need not
            raise


def _hash(key: str) -> str:
    # A key may be longer than a file name with a suffix can be, and has slashes.
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def _is_at(fd: int, name: str, folder: int) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        there = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)
