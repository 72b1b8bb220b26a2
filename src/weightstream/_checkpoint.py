"""An opened checkpoint: the headers of its sources, and reading from them by name."""

from __future__ import annotations

import difflib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from . import _config, _log, frameworks, sources
from ._core import Checkpoint as CoreCheckpoint
from ._core import Stream as CoreStream
from ._errors import ClosedError, ConfigError
from ._stream import TensorStream
from ._tensors import SourceInfo, TensorInfo, TensorSlice, plan_part
from .sources.renewal import Renewer

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._progress import Progress


class Checkpoint(Mapping[str, TensorInfo]):
    """The tensors of a checkpoint by name, in file order. Made by `weightstream.open`; only headers are read.

    Example:
        >>> with ws.open("model/") as ckpt:
        ...     print(len(ckpt), ckpt.nbytes)
        ...     bias = ckpt.get_tensor("lm_head.bias")
        ...     rows = ckpt.get_slice("lm_head.weight")[0:16]

    """

    def __init__(self, core: CoreCheckpoint, paths: list[str], renewer: Renewer, settings: _config.Settings) -> None:
        self._core = core
        self._paths = paths
        self._renewer = renewer
        self._settings = settings
        self._names: list[str] | None = None
        self._framework: frameworks.Framework | None = None
        self._closed = False
        self._process = os.getpid()

    @classmethod
    def _open(cls, location: sources.Location, settings: _config.Settings) -> Checkpoint:
        resolved = sources.resolve(location, settings.storage_options)
        weight_map = None if resolved.weight_map is None else list(resolved.weight_map.items())
        with Renewer(resolved.sources) as renewer, _log.forwarding() as log:
            core = CoreCheckpoint.open(renewer.objects, weight_map, log)
        return cls(core, [source.name for source in resolved.sources], renewer, settings)

    def __getitem__(self, name: str) -> TensorInfo:
        return self._info(self._index(name))

    def __iter__(self) -> Iterator[str]:
        return iter(self._all_names())

    def __len__(self) -> int:
        return len(self._core)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._find(name) is not None

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths or URLs (without query) of the sources, in the order in which they are streamed."""
        return tuple(self._paths)

    @property
    def sources(self) -> tuple[SourceInfo, ...]:
        """The sources, in the order in which they are streamed."""
        return tuple(SourceInfo(path, *self._core.source(index)) for index, path in enumerate(self._paths))

    @property
    def metadata(self) -> dict[str, str]:
        """The ``__metadata__`` of the sources, merged; where two differ, the first source's value counts."""
        merged: dict[str, str] = {}
        for source in range(len(self._paths)):
            for key, value in (self._core.metadata(source) or {}).items():
                merged.setdefault(key, value)
        return merged

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self._core.nbytes()

    @property
    def closed(self) -> bool:
        """Whether `close()` was called."""
        return self._closed

    def get_tensor(self, name: str) -> Any:
        """Reads one tensor.

        Raises:
            KeyError: no such tensor; names that look like it are in the message.
            WeightstreamError: what reading met; ClosedError after `close()`.

        Example:
            >>> ckpt.get_tensor("lm_head.bias").shape
            torch.Size([32000])

        """
        self._check_open()
        with self._stream_of([self._index(name)], self._settings, time.monotonic()) as running:
            return next(running)[1]

    def get_slice(self, name: str) -> TensorSlice:
        """A tensor to be indexed: reads the bytes that the index needs, as far as leading dimensions tell.

        Raises:
            KeyError: no such tensor.

        Example:
            >>> ckpt.get_slice("lm_head.weight")[0:16].shape
            torch.Size([16, 4096])

        """
        self._check_open()
        return TensorSlice(self, self[name])

    def stream(self, **settings: Any) -> TensorStream:
        """As `weightstream.stream`, of this checkpoint: the headers are not read again.

        Raises:
            SourceChangedError: a file or object is not the one whose header was read.

        """
        called = time.monotonic()
        return self._start(_config.resolve(**{**self._inherited(settings), **settings}), called)

    def load(self, **settings: Any) -> dict[str, Any]:
        """As `weightstream.load`, of this checkpoint."""
        called = time.monotonic()
        resolved = _config.resolve(**{**self._inherited(settings), **settings})
        with self._start(resolved, called, whole=True) as running:
            return self._collect(running)

    def close(self) -> None:
        """Closes files and connections. Streams that run, and tensors, stay as they are. Idempotent."""
        self._closed = True
        self._park()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Checkpoint cannot be pickled: it holds open files; open it again in the other process")

    def __repr__(self) -> str:
        return f"<Checkpoint of {len(self)} tensors in {len(self._paths)} sources, {self.nbytes} bytes>"

    # What the stream and the slices need.

    def _start(
        self, settings: _config.Settings, called: float, *, owned: bool = False, whole: bool = False
    ) -> TensorStream:
        """With `whole`, the caller keeps all: there is no use in a limit of what is not handed out."""
        self._check_open()
        indexes = None
        if settings.names is not None:
            indexes = self._select(settings.names)
        elif settings.into is not None:
            indexes = self._select(settings.into, "into")
        return self._stream_of(indexes, settings, called, owned=owned, whole=whole)

    def _park(self) -> None:
        """Closes the files, unless a stream reads them; who needs one again opens it again."""
        if os.getpid() == self._process:  # a thread may have held a file's lock at the fork
            self._core.park()

    def _collect(self, running: TensorStream) -> dict[str, Any]:
        arrived = dict(running)
        return {name: arrived[name] for name in self._all_names() if name in arrived}

    def _stream_of(
        self,
        indexes: list[int] | None,
        settings: _config.Settings,
        called: float,
        *,
        owned: bool = False,
        whole: bool = False,
    ) -> TensorStream:
        framework = self._framework_for(settings)
        if settings.into is not None:
            self._check_into(framework, settings.into, indexes or [])
        core = CoreStream.start(
            self._core,
            indexes,
            file_order=settings.order == "file",
            memory_limit=settings.memory_limit,
            concurrency=settings.concurrency,
            backend=settings.backend,
            called=called,
            device=framework.target(2**63 if whole else settings.device_limit),
            trace=settings.trace is not None,
        )
        return self._running(core, framework, settings, owned=owned)

    def _stream_of_parts(
        self, parts: Sequence[tuple[str, int, int, Sequence[int]]], settings: _config.Settings
    ) -> TensorStream:
        """A stream of (name, begin, end, shape): bytes [begin, end) of a tensor, as a tensor of `shape`.

        They do not overlap. Of several parts of one tensor, `order="file"` tells which one comes.
        """
        self._check_open()
        framework = self._framework_for(settings)
        core = CoreStream.start_parts(
            self._core,
            [(self._index(name), begin, end, list(shape)) for name, begin, end, shape in parts],
            file_order=settings.order == "file",
            memory_limit=settings.memory_limit,
            concurrency=settings.concurrency,
            backend=settings.backend,
            called=time.monotonic(),
            device=framework.target(settings.device_limit),
        )
        return self._running(core, framework, settings)

    def _running(
        self, core: CoreStream, framework: frameworks.Framework, settings: _config.Settings, *, owned: bool = False
    ) -> TensorStream:
        try:
            take = framework.begin(core)
        except BaseException:
            core.close()
            raise
        nbytes = core.stats()["bytes_total"]
        return TensorStream(
            self,
            core,
            take,
            nbytes=nbytes,
            renewer=self._renewer,
            progress=self._progress(settings, nbytes, len(core)),
            trace=settings.trace,
            owns_checkpoint=owned,
        )

    def _read_part(self, info: TensorInfo, index: Any) -> Any:
        self._check_open()
        part = plan_part(info, index)
        framework = self._own_framework()
        if part is None:
            return framework.index(self.get_tensor(info.name), index)
        with self._stream_of_parts([(info.name, part.begin, part.end, part.shape)], self._settings) as running:
            return framework.index(next(running)[1], part.index)

    def _framework_for(self, settings: _config.Settings) -> frameworks.Framework:
        if settings is self._settings:
            return self._own_framework()
        return _framework(settings)

    def _check_into(self, framework: frameworks.Framework, into: Mapping[str, Any], indexes: list[int]) -> None:
        for index in indexes:
            name, dtype, shape, *_ = self._core.tensor(index)
            if name not in into:
                raise ConfigError(f"into has no tensor for {name!r}; name those that are wanted by names=")
            framework.check_into(name, dtype, shape)

    def _own_framework(self) -> frameworks.Framework:
        if self._framework is None:
            self._framework = _framework(self._settings)
        return self._framework

    def _progress(self, settings: _config.Settings, nbytes: int, tensors: int) -> Progress | None:
        if not settings.progress:
            return None
        from ._progress import Progress

        return Progress(nbytes, tensors, os.path.basename(self._paths[0]) if len(self._paths) == 1 else "weights")

    def _inherited(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What `stream` takes over from `open` unless it is given anew."""
        if settings.get("storage_options"):
            raise ConfigError("storage_options are given to weightstream.open; this checkpoint is open already")
        return {
            "device": self._settings.device,
            "framework": self._settings.framework,
            "backend": self._settings.backend,
        }

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the checkpoint is closed")
        if os.getpid() != self._process:
            raise ClosedError(
                f"this checkpoint was opened in process {self._process}; open one of its own in this forked process"
            )

    def _all_names(self) -> list[str]:
        if self._names is None:
            self._names = self._core.names()
        return self._names

    def _find(self, name: str) -> int | None:
        try:
            name.encode()
        except UnicodeEncodeError:  # a lone surrogate: no tensor is called that
            return None
        return self._core.find(name)

    def _index(self, name: str) -> int:
        index = self._find(name)
        if index is None:
            raise KeyError(f"no tensor {name!r}{self._similar(name)}")
        return index

    def _similar(self, name: str) -> str:
        similar = difflib.get_close_matches(name, self._all_names()[:10_000], n=3)
        return f"; there is {', '.join(map(repr, similar))}" if similar else ""

    def _info(self, index: int) -> TensorInfo:
        name, dtype, shape, source, begin, end = self._core.tensor(index)
        return TensorInfo(name, dtype, shape, self._paths[source], (begin, end))

    def _select(self, names: _config.Names, keyword: str = "names") -> list[int]:
        if callable(names):
            return [index for index, name in enumerate(self._all_names()) if names(name)]
        indexes = []
        for name in dict.fromkeys(names):
            index = self._find(name) if isinstance(name, str) else None
            if index is None:
                raise ConfigError(f"{keyword} has {name!r}, which no source has{self._similar(str(name))}")
            indexes.append(index)
        return indexes


def _framework(settings: _config.Settings) -> frameworks.Framework:
    return frameworks.get(settings.framework, settings.device, settings.dtype, settings.into)


def open_checkpoint(
    location: sources.Location,
    *,
    framework: str | None = None,
    device: _config.Device | None = None,
    backend: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Checkpoint:
    """Opens a checkpoint: reads and validates the headers of its sources, all sources at once.

    Args:
        location: a file, an index, a directory, a glob, or a sequence of these: paths or URLs, as in `stream`.
        framework, device, backend, storage_options: as in `stream`; for tensors that are read from it.

    Raises:
        FormatError: not a valid safetensors file or index.
        NotFoundError, AuthError, StorageError, ConfigError: it cannot be opened.
        ThrottledError, ServerError, ProtocolError, TimeoutError: a storage service that fails, cannot be reached, or
            answers something else than was asked for.

    Example:
        >>> with ws.open("s3://models/llama") as ckpt:  # reads the first MiB of each shard
        ...     {name: info.shape for name, info in ckpt.items()}

    """
    settings = _config.resolve(
        framework=framework,
        device=device,
        backend=backend,
        storage_options=storage_options,
        names=(),
        progress=False,
        trace="",
    )
    return Checkpoint._open(location, settings)
