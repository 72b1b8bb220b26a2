"""New credentials while the core reads: the thread that answers when an object asks for new access."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._errors import WeightstreamError
from .remote import Access, LocalSource, RemoteSource

if TYPE_CHECKING:
    from typing_extensions import Self

_PATIENCE = 0.05  # seconds between looks at whether to stop; the longest that stop() waits, unless credentials are made
_LAST_WAIT = 1.0


class Renewer:
    """Makes sources into what the core opens, and serves their renewals while somebody reads them. Thread-safe.

    `start` and `stop` are counted; as a context manager it does both. Without a source that can be renewed there is
    no thread.

    Attributes:
        objects: what the core opens, in the order of the sources: paths as bytes, and HttpObjects.

    """

    def __init__(self, sources: Sequence[LocalSource | RemoteSource]) -> None:
        remote = [source for source in sources if isinstance(source, RemoteSource)]
        core: Any = import_module("weightstream._core") if remote else None
        self._renewals = core.Renewals() if any(source.renew for source in remote) else None
        self.objects = [
            source.core(self._renewals) if isinstance(source, RemoteSource) else os.fsencode(source.path)
            for source in sources
        ]
        # By identity: the core gives back the very object.
        self._renew: dict[int, Callable[[], Access]] = {
            id(one): source.renew
            for one, source in zip(self.objects, sources, strict=True)
            if isinstance(source, RemoteSource) and source.renew is not None
        }
        self._lock = threading.Lock()
        self._users = 0
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Starts to serve, or counts one more user."""
        if self._renewals is None:
            return
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._ended = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(self._ended,), name="weightstream-renew", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """Counts one user less; the last one ends the thread.

        A credential chain that takes long is not waited for: its thread ends by itself when the chain returns.
        """
        with self._lock:
            if self._users == 0:
                return
            self._users -= 1
            if self._users:
                return
            self._ended.set()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join(_LAST_WAIT)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _serve(self, ended: threading.Event) -> None:
        while not ended.is_set():
            asking = self._renewals.next(_PATIENCE)  # type: ignore[union-attr]
            if asking is not None:
                _answer(asking, self._renew[id(asking)])


def _answer(asking: Any, renew: Callable[[], Access]) -> None:
    try:
        access = renew()
    except WeightstreamError as error:
        asking.renewal_failed(error.message)
    except Exception as error:
        # A text that nobody translated may repeat a secret.
        asking.renewal_failed(f"its credentials could not be renewed: {type(error).__name__}")
    else:
        asking.renew(access.url, list(access.headers.items()), access.expires_at, access.redirected_by)
