"""NAME.part: a file while it is pulled, piece by piece in any order, from several threads."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from typing import Any

from .._errors import StorageError
from ..sources import File
from .destination import Destination, Lock, origin, sync_folder, translated

PIECE = 8 << 20  # as large as a read of the core
SAVE_SECONDS = 2.0  # what a process that is killed can lose

_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW


class Part:
    """One file. Pieces that an earlier attempt at the same version has left are kept, unless `anew`.

    A piece counts as kept only after it was on the disk: not even a power failure leaves holes in a file.

    Raises:
        AuthError, StorageError: it cannot be written, or there is a folder of that name.

    """

    def __init__(
        self, destination: Destination, file: File, size: int, version: str | None, lock: Lock, *, anew: bool
    ) -> None:
        self.file = file
        self.size = size
        self.path = destination.path_of(file.key)
        self._destination = destination
        self._version = version
        self._lock = lock
        self._name = file.key.rpartition("/")[2]
        self._pieces = -(-size // PIECE)
        self._changes = threading.Lock()
        self._saving = threading.Lock()
        self._saved_at = time.monotonic()
        self._folder = destination.open_folder(file.key)
        self._fd = -1
        try:
            with translated(self.path, "write it"):
                self._open()
                self._done = 0 if anew else self._kept()
                if self._done == 0:
                    destination.forget(file.key, "part.json")
                    os.ftruncate(self._fd, 0)
                    os.ftruncate(self._fd, size)
        except BaseException:
            self.close()
            raise
        self._saved = self._done
        self.kept = sum(end - begin for begin, end in self._ranges(missing=False))

    @property
    def complete(self) -> bool:
        """Whether all pieces are there."""
        return self._done == (1 << self._pieces) - 1

    def missing(self) -> list[tuple[int, int]]:
        """The (begin, end) of every piece that is not there."""
        return self._ranges(missing=True)

    def write(self, begin: int, data: memoryview) -> bool:
        """Writes the piece that begins there. True: it was the last one, for exactly one caller."""
        with translated(self.path, "write it"):
            written = 0
            while written < len(data):
                written += os.pwrite(self._fd, data[written:], begin + written)
        with self._changes:
            self._done |= 1 << begin // PIECE
            complete = self.complete
        if not complete and time.monotonic() - self._saved_at > SAVE_SECONDS:
            self.save()
        return complete

    def save(self) -> None:
        """Puts what is there on the disk, and remembers it for another attempt."""
        if self._version is None or not self._saving.acquire(blocking=False):
            return  # nobody could tell whether what is left to read is of the same version
        try:
            done = self._done
            if done != self._saved and self._fd >= 0:
                with translated(self.path, "write it"):
                    os.fdatasync(self._fd)
                    state = {**self._identity(), "done": f"{done:x}"}
                self._destination.remember(self.file.key, "part.json", state)
                self._saved = done
            self._saved_at = time.monotonic()
        finally:
            self._saving.release()

    def finish(self) -> None:
        """Gives the complete file its name.

        Raises:
            StorageError: it does not have the size that it must have, or somebody has put another in its place.

        """
        part = self._name + ".part"
        with self._saving, translated(self.path, "write it"):
            os.fsync(self._fd)
            status = os.fstat(self._fd)
            there = os.stat(part, dir_fd=self._folder, follow_symlinks=False)
            if not self.complete or status.st_size != self.size or not os.path.samestat(status, there):
                raise StorageError(
                    "it was changed by somebody else while it was pulled; pull again",
                    source=f"{self.path}.part",
                    expected=self.size,
                    got=there.st_size,
                )
            # First the record: without the file it says nothing, and a file without it would be pulled again.
            record = self._destination.record(self.file, self.size, self._version, status)
            self._destination.remember(self.file.key, "json", record)
            os.replace(part, self._name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            sync_folder(self._folder)
            self._destination.forget(self.file.key, "part.json")
            self.close()

    def close(self) -> None:
        """Lets go of it as it is. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._lock.release()

    @property
    def closed(self) -> bool:
        """Whether it was finished or let go of."""
        return self._folder < 0

    def _open(self) -> None:
        part = self._name + ".part"
        try:
            if stat.S_ISDIR(os.stat(self._name, dir_fd=self._folder, follow_symlinks=False).st_mode):
                raise StorageError("there is a folder of this name", source=self.path, errno=errno.EISDIR)
        except FileNotFoundError:
            pass
        self._fd = os.open(part, _OPEN, 0o666, dir_fd=self._folder)
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            raise StorageError("it is not a regular file; remove it", source=f"{self.path}.part")
        if status.st_nlink > 1:  # what it shares its bytes with must not change
            os.unlink(part, dir_fd=self._folder)
            os.close(self._fd)
            self._fd = -1
            self._fd = os.open(part, _OPEN | os.O_EXCL, 0o666, dir_fd=self._folder)

    def _identity(self) -> dict[str, Any]:
        """What must be the same for the pieces to count."""
        return {
            "key": self.file.key,
            "source": origin(self.file),
            "version": self._version,
            "size": self.size,
            "piece": PIECE,
            "inode": os.fstat(self._fd).st_ino,
        }

    def _kept(self) -> int:
        """The pieces that an earlier attempt has left, as bits."""
        state = self._destination.recall(self.file.key, "part.json")
        if state is None or self._version is None or os.fstat(self._fd).st_size != self.size:
            return 0
        bits = state.pop("done", None)
        if state != self._identity():
            return 0
        try:
            done = int(bits, 16)
        except (TypeError, ValueError):
            return 0
        return done if 0 <= done < 1 << self._pieces else 0

    def _ranges(self, *, missing: bool) -> list[tuple[int, int]]:
        return [
            (piece * PIECE, min((piece + 1) * PIECE, self.size))
            for piece in range(self._pieces)
            if (self._done >> piece & 1 == 0) == missing
        ]
