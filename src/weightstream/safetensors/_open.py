"""safe_open: one handle on a location, with the methods of the safetensors package."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from safetensors import safe_open as theirs

from ._arguments import check_backend, check_name, device_of, framework_of, location_of
from ._errors import closed
from ._prefetch import PrefetchLoader, check_plan, concurrency_of
from ._reader import Reader, ReadStats
from ._slices import SafeSlice

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

    from .._config import Device
    from ..sources import Location


class TensorMeta(NamedTuple):
    """A tensor's entry in the header.

    Attributes:
        dtype: the header's name of it, e.g. ``"F32"``.
        shape: in elements.
        data_offsets: (begin, end) in bytes, from the end of the header on.

    """

    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


class safe_open:
    """Opens a safetensors file and returns tensors as asked, as `safetensors.safe_open` does.

    A local file that is in the page cache is mapped, as safetensors maps every file. Any other is read ahead of a
    caller who walks it, into memory of the tensors' own.

    Args:
        filename: a path; or anything that `weightstream.open` takes: a directory, an index, a URL, or several of these,
            which are then as one file.
        framework: ``"pt"`` (or ``"torch"``, ``"pytorch"``) or ``"numpy"`` (``"np"``). For any other framework of the
            safetensors package, its own safe_open is returned.
        device: ``"cpu"``, ``"cuda:0"``, ``"mps"``, the index of an accelerator, ...
        backend: ``"mmap"``, or ``"pread"`` for tensors that are never the pages of a file.

    Raises:
        SafetensorError: not a valid file, or arguments that cannot work. Where weightstream knows more of it, it is
            also the `weightstream.WeightstreamError` that says so.
        FileNotFoundError, PermissionError, OSError: it cannot be opened.

    Example:
        >>> with safe_open("model.safetensors", framework="pt") as f:
        ...     for name in f.keys():
        ...         tensor = f.get_tensor(name)

    """

    def __new__(
        cls, filename: Location, framework: str, device: Device | None = "cpu", *, backend: str = "mmap"
    ) -> Any:
        """A handle; of the safetensors package where the framework is another than torch and numpy."""
        if framework_of(framework) is None:
            return theirs(filename, framework, device, backend=backend)
        return super().__new__(cls)

    def __init__(
        self, filename: Location, framework: str, device: Device | None = "cpu", *, backend: str = "mmap"
    ) -> None:
        location = location_of(filename)
        own = framework_of(framework)
        assert own is not None
        where = device_of(device, own)
        check_backend(backend)
        self._location = location
        self._open_reader: Reader | None = Reader(location, own, where, backend)

    def keys(self) -> list[str]:
        """The names of the tensors, sorted."""
        return sorted(self._reader.checkpoint)

    def offset_keys(self) -> list[str]:
        """The names of the tensors, in the order in which they lie in the file (or in one file after the other)."""
        return list(self._reader.checkpoint)

    def metadata(self) -> dict[str, str] | None:
        """What the header has beside tensors; None if it has nothing."""
        checkpoint = self._reader.checkpoint
        if all(checkpoint._core.metadata(source) is None for source in range(len(checkpoint.paths))):
            return None
        return checkpoint.metadata

    def get_tensor(self, name: str) -> Any:
        """One tensor. The caller's own: it stays valid after the handle is closed.

        Raises:
            SafetensorError: there is no such tensor, or the handle is closed.

        Example:
            >>> f.get_tensor("lm_head.bias")

        """
        check_name(name)
        return self._reader.tensor(name)

    def get_tensors(self) -> dict[str, Any]:
        """All tensors by name, in the order of `offset_keys()`."""
        return self._reader.tensors()

    def get_slice(self, name: str) -> SafeSlice:
        """A tensor to be indexed: ``get_slice(name)[0:16]`` reads what the index asks for.

        Raises:
            SafetensorError: there is no such tensor, or the handle is closed.

        Example:
            >>> f.get_slice("lm_head.weight")[:16]

        """
        check_name(name)
        reader = self._reader
        return SafeSlice(reader, reader.info(name))

    def get_tensor_meta(self, name: str) -> TensorMeta:
        """A tensor's entry in the header. Reads nothing.

        Raises:
            SafetensorError: there is no such tensor, or the handle is closed.

        """
        check_name(name)
        reader = self._reader
        info = reader.info(name)
        begins = next(source.header_bytes for source in reader.checkpoint.sources if source.path == info.source)
        return TensorMeta(info.dtype, list(info.shape), (info.range[0] - begins, info.range[1] - begins))

    def prefetch(
        self,
        plan: Mapping[str, slice | None] | None = None,
        *,
        device: Device | None = None,
        threads: int = 8,
    ) -> PrefetchLoader:
        """Starts loading tensors in the background, and returns what hands each of them out once.

        As in safetensors 0.9, but to every device, the CPU too, from every location, and for numpy as well. As much is
        loaded ahead as the memory limits allow (``WEIGHTSTREAM_MEMORY_LIMIT``, ``WEIGHTSTREAM_DEVICE_LIMIT``).

        Args:
            plan: the names of the tensors to load, each with None for the whole tensor, or with a slice of step 1 of
                its first dimension: then only those rows are read. Default: every tensor, whole.
            device: where to; default: the device of the handle.
            threads: reads in flight at a time; the default lets the reader find out.

        Raises:
            SafetensorError: a plan that cannot work, or a tensor that the framework cannot represent.

        Example:
            >>> with f.prefetch(device="cuda:0") as loader:
            ...     for name, tensor in loader: ...

        """
        reader = self._reader
        check_plan(plan)
        where = None if device is None else device_of(device, reader.framework)
        return reader.prefetch(plan, where, concurrency_of(threads))

    @property
    def stats(self) -> ReadStats:
        """How the tensors came so far: mapped, read ahead, or read when they were asked for."""
        return self._reader.stats()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _exc_type: type[BaseException] | None,
        _exc_value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        reader, self._open_reader = self._open_reader, None
        if reader is not None:
            reader.release()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object: open it in the other process")

    def __repr__(self) -> str:
        state = "closed" if self._open_reader is None else "open"
        return f"<weightstream.safetensors.safe_open {state}: {self._location!r}>"

    @property
    def _reader(self) -> Reader:
        if self._open_reader is None:
            raise closed()
        return self._open_reader
