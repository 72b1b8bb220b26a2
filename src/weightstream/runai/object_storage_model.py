"""ObjectStorageModel: the files of a model, copied by one of several processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from types import TracebackType
from typing import IO, TYPE_CHECKING, Literal

from .._errors import ConfigError
from .._pull import METADATA
from .credentials import S3Credentials, is_remote_path, shown
from .object_storage import pull_files

if TYPE_CHECKING:
    from typing_extensions import Self


class ObjectStorageModel:
    """Copies files of a model into a folder once, whoever of the processes of this machine is first.

    The first process to make one of a folder holds it until the ``with`` block ends; the others wait for that, and find
    that there is nothing left to do. After a block that failed the next one begins anew. What is in the folder and
    was not completed is removed, so the folder must be for this alone.

    Processes of several machines that share the folder over NFS are not kept apart.

    Attributes:
        dir: the folder.

    Args:
        model_path: a URL: a bucket, or a prefix in it.
        dst: the folder; the lock is a file ``<dst>.lock`` beside it.
        s3_credentials: for an ``s3://`` path.

    Raises:
        ValueError: not a URL of a storage, or a folder that must not be emptied.

    Example:
        >>> with ObjectStorageModel("s3://models/llama", "/scratch/llama") as model:
        ...     model.pull_files(allow_pattern=["*.json"])
        ...     model.pull_files(allow_pattern=["*.safetensors"])

    """

    SENTINEL_NAME = ".runai_complete"

    def __init__(self, model_path: str, dst: str, s3_credentials: S3Credentials | None = None) -> None:
        self._lock: IO[str] | None = None
        self._process = os.getpid()
        if not is_remote_path(model_path):
            raise ConfigError(f"model_path={model_path!r} is not a URL of a storage, such as s3://bucket/prefix")
        self.dir = dst.rstrip("/")
        home, folder = os.path.realpath(os.path.expanduser("~")), os.path.realpath(self.dir or "/")
        if os.path.commonpath([home, folder]) == folder:
            raise ConfigError(f"dst={dst!r} is emptied before files are copied to it; name a folder for this alone")
        self._model_path = model_path if model_path.endswith("/") else model_path + "/"
        self._s3_credentials = s3_credentials
        self._sentinel = os.path.join(self.dir, self.SENTINEL_NAME)
        os.makedirs(os.path.dirname(os.path.abspath(self.dir)), exist_ok=True)
        self._lock = open(self.dir + ".lock", "a")  # noqa: SIM115
        try:
            self._skip = not self._is_first()
            if not self._skip:
                if os.path.lexists(self.dir):
                    shutil.rmtree(self.dir)
                os.makedirs(self.dir)
        except BaseException:  # others wait for the lock, also when this is an interrupt
            self._release()
            raise

    def pull_files(self, allow_pattern: list[str] | None = None, ignore_pattern: list[str] | None = None) -> None:
        """As `weightstream.runai.pull_files`; nothing where another process has done it."""
        if not self._skip:
            pull_files(self._model_path, self.dir, allow_pattern, ignore_pattern, self._s3_credentials)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        """Marks the folder as complete if nothing failed, and lets the next process have it.

        Raises:
            RuntimeError: no file was copied, or the mark cannot be written.

        """
        try:
            if kind is None and not self._skip:
                self._complete()
        finally:
            self._release()
        return False

    def __del__(self) -> None:
        self._release()

    def _is_first(self) -> bool:
        """Takes the lock: shared with others that find the files there, or alone to copy them."""
        assert self._lock is not None
        for mode in (fcntl.LOCK_SH, fcntl.LOCK_EX):
            # Given up in between: two who both held it shared would wait for each other for ever.
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            fcntl.flock(self._lock, mode)
            if os.path.exists(self._sentinel):
                fcntl.flock(self._lock, fcntl.LOCK_SH)
                return False
        return True

    def _complete(self) -> None:
        if not set(os.listdir(self.dir)) - {METADATA, self.SENTINEL_NAME}:
            raise RuntimeError(f"no file was copied to {self.dir!r}: is {shown(self._model_path)!r} the right prefix?")
        try:
            with open(self._sentinel, "w"):
                pass
        except OSError as error:
            raise RuntimeError(f"cannot mark {self.dir!r} as complete: {error}") from error

    def _release(self) -> None:
        """Lets others have the lock. Idempotent."""
        lock, self._lock = getattr(self, "_lock", None), None
        if lock is None:
            return
        if os.getpid() == self._process:  # a forked child has the same lock, and must not take it from its parent
            fcntl.flock(lock, fcntl.LOCK_UN)
        lock.close()
