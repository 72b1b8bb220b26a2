"""How a handle comes by its tensors: out of a mapping, read ahead, or read on their own."""

from __future__ import annotations

import dataclasses
import math
import os
import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from safetensors import SafetensorError

from .. import _config, _core, frameworks
from .._checkpoint import Checkpoint, open_checkpoint
from .._errors import WeightstreamError
from .._stream import TensorStream
from .._tensors import TensorInfo, plan_part
from ..sources import Location
from ._errors import reraise, unknown
from ._mapping import LocalFile, Make
from ._prefetch import PrefetchLoader, part_of
from ._readahead import ReadAhead, Start
from ._slices import check_numpy, takes_all
from ._strips import Strips, basic_index, elements_of, plan_strips
from ._window import MISSING


@dataclass(frozen=True)
class ReadStats:
    """How the tensors of a handle came so far.

    Attributes:
        mapped: tensors and parts that lie in a mapping of a file, or were copied out of one.
        read_ahead: tensors that were being read before they were asked for.
        read: tensors and parts that were read on their own, when they were asked for.
        bytes_read: bytes that storage delivered for the latter two, headers not counted.

    """

    mapped: int
    read_ahead: int
    read: int
    bytes_read: int


class Reader:
    """The tensors of one location. Shared by a handle and its slices, which may outlive it. Thread-safe.

    After a fork, a child opens the location anew when it needs it.
    """

    def __init__(self, location: Location, framework: Literal["pt", "numpy"], device: str | int, backend: str) -> None:
        self._location = location
        self.framework = framework
        self._device = device
        self._backend = backend
        self._lock = threading.Lock()
        self._mapped = self._read = self._bytes_read = 0
        self._forked = False
        self._open()
        _readers.add(self)

    def _open(self) -> None:
        try:
            # "pread" is a wish for memory of one's own, not for an engine: any reader brings that.
            self._checkpoint = open_checkpoint(
                self._location,
                framework=self.framework,
                device=self._device,
                backend="auto" if self._backend == "pread" else None,
            )
        except WeightstreamError as error:
            reraise(error, "Error while deserializing header: ")
        self._framework: frameworks.Framework | None = None
        self._make: Make | None = None
        self._ahead: ReadAhead | None = None
        self._files: dict[str, LocalFile] = {}
        settings = self._checkpoint._settings
        if self._backend != "pread" and settings.backend in ("auto", "mmap") and settings.dtype is None:
            for source, path in enumerate(self._checkpoint.paths):
                if "://" not in path:
                    self._files[path] = LocalFile(self._checkpoint._core, source)
        self._process = os.getpid()  # last: from now on nobody looks whether what is here is the parent's

    @property
    def checkpoint(self) -> Checkpoint:
        """The opened headers."""
        self._check_process()
        return self._checkpoint

    def _check_process(self) -> None:
        if self._process != os.getpid():
            with self._lock:
                if self._process != os.getpid():
                    self._forked = True
                    self._open()

    def info(self, name: str) -> TensorInfo:
        """What the header says of a tensor.

        Raises:
            SafetensorError: no source has it.

        """
        try:
            return self.checkpoint[name]
        except KeyError:
            raise unknown(name) from None

    def tensor(self, name: str) -> Any:
        """A whole tensor."""
        return self._whole(self.info(name))

    def _whole(self, info: TensorInfo, *, sliced: bool = False) -> Any:
        """A whole tensor. `sliced`: it is asked for through a slice."""
        self._check_dtype(info)
        try:
            file = self._mapped_file(info, whole=True)
            if file is not None:
                self._add(mapped=1)
                return file.tensor(self._maker(), info)
            ahead = self._ahead or self._begin_ahead()
            tensor = ahead.take(info.name, sliced=sliced)
            return self._read_alone(info.name) if tensor is MISSING else tensor
        except WeightstreamError as error:
            reraise(error)

    def part(self, info: TensorInfo, index: Any) -> Any:
        """A part of a tensor."""
        self._check_process()
        if self._forked:
            info = self.info(info.name)  # the slice may be the parent's, and the file another one since
        if self.framework == "numpy":
            index = check_numpy(index, info.shape)
        if takes_all(index, len(info.shape)):
            return self._whole(info, sliced=True)
        self._check_dtype(info)
        try:
            return self._part(info, index)
        except WeightstreamError as error:
            reraise(error)

    def tensors(self) -> dict[str, Any]:
        """All tensors, in file order."""
        checkpoint = self.checkpoint
        infos = list(checkpoint.values())
        for info in infos:
            self._check_dtype(info)
        try:
            if all(self._mapped_file(info, whole=True) is not None for info in infos):
                return {info.name: self._whole(info) for info in infos}
            with checkpoint.stream(names=_every, order="arrival", progress=False, device_limit=_NO_LIMIT) as stream:
                arrived = dict(stream)
                self._count(stream, len(arrived))
        except WeightstreamError as error:
            reraise(error)
        return {info.name: arrived[info.name] for info in infos}

    def prefetch(
        self, plan: Mapping[str, slice | None] | None, device: str | int | None, concurrency: int | None
    ) -> PrefetchLoader:
        """Starts a stream of the tensors of `plan` (all of them if that is None), or of rows of theirs."""
        checkpoint = self.checkpoint
        infos = list(checkpoint.values()) if plan is None else [self.info(name) for name in plan]
        for info in infos:
            self._check_dtype(info)
        parts = [part_of(info, None if plan is None else plan[info.name]) for info in infos]
        try:
            settings = _config.resolve(
                framework=self.framework,
                device=self._device if device is None else device,
                backend=checkpoint._settings.backend,
                concurrency=concurrency,
                order="arrival",
                progress=False,
            )
            stream = checkpoint._stream_of_parts(parts, settings)
        except WeightstreamError as error:
            reraise(error)
        chosen = {info.name for info in infos}
        return PrefetchLoader(stream, [name for name in checkpoint if name in chosen])

    def release(self) -> None:
        """Stops what is read ahead, and closes files. Slices go on working."""
        if self._process != os.getpid():
            return
        if self._ahead is not None:
            self._ahead.stop()
        for file in self._files.values():
            file.release()
        self._checkpoint._park()

    def stats(self) -> ReadStats:
        """What was done so far."""
        mine = self._process == os.getpid()  # what the parent read ahead has a lock that may be held for ever
        ahead, bytes_read = self._ahead.counts() if mine and self._ahead is not None else (0, 0)
        return ReadStats(self._mapped, ahead, self._read, self._bytes_read + bytes_read)

    def _part(self, info: TensorInfo, index: Any) -> Any:
        plan = plan_part(info, index)
        contiguous = plan is not None and plan.end - plan.begin < info.nbytes
        file = self._mapped_file(info)
        if file is not None:
            if plan is None or not contiguous:
                copied = self._copied(file, info, index)
                return self._index(self._whole(info), index) if copied is None else copied
            self._add(mapped=1)
            return self._index(file.part(self._maker(), info, plan.shape, plan.begin, plan.end), plan.index)
        strips = plan_strips(info, index, _LEAST_GAP if "://" not in info.source else _LEAST_REMOTE_GAP)
        if strips is not None:
            return self._read_strips(info, strips)
        if not contiguous:
            file = self._files.get(info.source)
            copied = None if file is None else self._copied(file, info, index)
            return self._index(self._whole(info, sliced=True), index) if copied is None else copied
        assert plan is not None
        with self._parts([(info.name, plan.begin, plan.end, plan.shape)]) as stream:
            part = next(stream)[1]
            self._count(stream, 1)
        return self._index(part, plan.index)

    def _read_strips(self, info: TensorInfo, strips: Strips) -> Any:
        with self._parts([(info.name, begin, end, strips.shape) for begin, end in strips.ranges]) as stream:
            parts = [part for _, part in stream]
            self._count(stream, 1)
        together = import_module("torch" if self.framework == "pt" else "numpy").stack(parts)
        return self._index(together.reshape(strips.stacked), strips.index)

    def _copied(self, file: LocalFile, info: TensorInfo, index: Any) -> Any:
        """A small part that lies all over the tensor, in pieces with narrow gaps, copied out of a mapping.

        Processes that take one such part each share the page cache, and the file is not read several times. None where
        the part is most of the tensor.
        """
        items = basic_index(index, info.shape)
        if items is None or elements_of(items, info.shape) * 2 > math.prod(info.shape):
            return None
        self._add(mapped=1)
        part = self._index(file.source(self._maker(), info), index)
        return part if self._device == "cpu" else part.to(self._device)

    def _parts(self, parts: list[tuple[str, int, int, tuple[int, ...]]]) -> TensorStream:
        settings = dataclasses.replace(self.checkpoint._settings, order="file", progress=False, trace=None)
        return self.checkpoint._stream_of_parts(parts, settings)

    def _index(self, tensor: Any, index: Any) -> Any:
        return self._own_framework().index(tensor, index)

    def _mapped_file(self, info: TensorInfo, *, whole: bool = False) -> LocalFile | None:
        """The file to map for a tensor, or a part of it; None where it is to be read."""
        if self._device != "cpu":
            return None
        file = self._files.get(info.source)
        if file is None or self._checkpoint._settings.backend == "mmap" or file.mostly_cached():
            return file
        # Others who want parts want other parts.
        return file if whole and file.is_shared() else None

    def _maker(self) -> Make:
        if self._make is None:
            module = import_module(f"weightstream.frameworks.{_MAKERS[self.framework]}")
            self._make = module.of_buffer
        return self._make

    def _own_framework(self) -> frameworks.Framework:
        if self._framework is None:
            self._framework = frameworks.get(self.framework, self._device)
        return self._framework

    def _begin_ahead(self) -> ReadAhead:
        checkpoint = self.checkpoint
        with self._lock:
            if self._ahead is None:
                sizes = dict(zip(checkpoint, checkpoint._core.sizes(), strict=True))
                limit = checkpoint._settings.memory_limit or _core.default_memory_limit()
                self._ahead = ReadAhead(list(sizes), sizes, _starter(checkpoint, limit), limit)
            return self._ahead

    def _read_alone(self, name: str) -> Any:
        with self.checkpoint.stream(names=[name], order="arrival", progress=False) as stream:
            tensor = next(stream)[1]
            self._count(stream, 1)
        return tensor

    def _count(self, stream: TensorStream, tensors: int) -> None:
        self._add(read=tensors, bytes_read=stream.stats.bytes_read)

    def _add(self, *, mapped: int = 0, read: int = 0, bytes_read: int = 0) -> None:
        with self._lock:
            self._mapped += mapped
            self._read += read
            self._bytes_read += bytes_read

    def _check_dtype(self, info: TensorInfo) -> None:
        """What the safetensors package has no tensors of, neither has this."""
        if info.dtype.startswith("F6_"):
            raise SafetensorError(f"Dtype not understood: {info.dtype}")
        if info.dtype == "F4" and self.framework == "pt" and (not info.shape or info.shape[-1] % 2):
            raise SafetensorError(
                f"f4_x2 dtype requires that the last dim be divisible by 2 in torch: got {list(info.shape)}"
            )


_readers: weakref.WeakSet[Reader] = weakref.WeakSet()
_MAKERS = {"pt": "torch_dtypes", "numpy": "numpy"}
# Gaps up to this are read through, as the core does.
_LEAST_GAP = 128 << 10
_LEAST_REMOTE_GAP = 1 << 20
_NO_LIMIT = 2**62


def _every(_name: str) -> bool:
    return True


def _starter(checkpoint: Checkpoint, limit: int) -> Start:
    settings = checkpoint._settings

    def start(names: list[str], slides_within: int | None) -> TensorStream:
        if slides_within is None:
            return checkpoint.stream(names=names, order="arrival", progress=False, memory_limit=limit)
        # To a device, what is ready waits there, and host memory is only on the way.
        memory = slides_within if settings.device == "cpu" else limit
        device = min(slides_within, settings.device_limit or slides_within)
        return checkpoint.stream(names=names, order="file", progress=False, memory_limit=memory, device_limit=device)

    return start


def _after_fork() -> None:
    for reader in list(_readers):
        reader._lock = threading.Lock()  # another thread may have held it


os.register_at_fork(after_in_child=_after_fork)
