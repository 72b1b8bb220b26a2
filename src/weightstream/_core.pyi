"""The C++ core. Everything that takes time releases the GIL; next_dlpack and next_buffers let signals through."""

from collections.abc import Sequence
from typing import Any, TypedDict, overload

class _Stats(TypedDict):
    tensors: int
    bytes: int
    bytes_total: int
    bytes_read: int
    reads: int
    retries: int
    seconds: float
    first_tensor_seconds: float
    wait_storage_seconds: float
    wait_device_seconds: float
    wait_consumer_seconds: float
    peak_host_bytes: int
    peak_device_bytes: int
    readers: dict[str, int]

class Log:
    """Takes lines of the core that belong to no stream. Thread-safe."""

    def __init__(self) -> None: ...
    def drain(self) -> list[tuple[int, str]]:
        """(level 0 debug, 1 info, 2 warning; line), since the last call."""

class Renewals:
    """Where objects ask for new access. Thread-safe."""

    def next(self, seconds: float) -> HttpObject | None:
        """The next object that asks; None when none does within `seconds`."""

class HttpObject:
    """A URL as a source. Raises ConfigError for what must not be requested."""

    @staticmethod
    def make(
        *,
        name: str,
        url: str,
        headers: Sequence[tuple[str, str]],
        size: int | None,
        etag: str | None,
        expires_at: float | None,
        redirected_by: str | None,
        renewals: Renewals | None,
        options: dict[str, Any],
    ) -> HttpObject: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str:
        """What changes when the contents do, as the first response said; empty when nothing says so."""

    def renew(
        self, url: str, headers: Sequence[tuple[str, str]], expires_at: float | None, redirected_by: str | None
    ) -> None: ...
    def renewal_failed(self, message: str) -> None: ...

class Sources:
    """Opened sources of any content."""

    @staticmethod
    def open(sources: list[bytes | HttpObject], log: Log | None = None) -> Sources: ...
    def __len__(self) -> int: ...
    def size(self, index: int) -> int: ...
    def head(self, index: int) -> bytes:
        """The first MiB at most, of an object whose size had to be found out by reading; else nothing."""

    def park(self) -> None: ...

class RawStream:
    """Ranges of sources as they are: (source, begin, end), which do not overlap. Limits of 0 mean a default."""

    @staticmethod
    def start(
        sources: Sources,
        ranges: Sequence[tuple[int, int, int]],
        *,
        memory_limit: int,
        concurrency: int,
        called: float,
    ) -> RawStream: ...
    def next(self) -> list[tuple[int, HostTensor]]:
        """Ready ranges as (number of the range, buffer), in any order, and only then an error; empty at the end."""

    def close(self) -> None: ...
    def bytes_read(self) -> int: ...
    def retries(self) -> int: ...
    def reasons(self) -> list[tuple[int, str]]: ...
    def drain_log(self) -> list[tuple[int, str]]:
        """What there was to say since the last call: (level, line)."""

class Checkpoint:
    """Sources with validated headers. Tensors are numbered in file order."""

    @staticmethod
    def open(
        sources: list[bytes | HttpObject], weight_map: Sequence[tuple[str, int]] | None, log: Log | None = None
    ) -> Checkpoint: ...
    def __len__(self) -> int: ...
    def names(self) -> list[str]: ...
    def find(self, name: str) -> int | None:
        """The number of the tensor called `name`."""

    def tensor(self, index: int) -> tuple[str, str, tuple[int, ...], int, int, int]:
        """(name, dtype, shape, source, begin, end), begin and end in bytes of the source."""

    def source(self, index: int) -> tuple[int, int, int]:
        """(size in bytes, tensors, bytes before the first tensor)."""

    def metadata(self, source: int) -> dict[str, str] | None: ...
    def duplicate(self, source: int) -> int | None:
        """A descriptor, the caller's, of the local file whose header was read; None of a URL."""

    def cached(self, source: int) -> float:
        """The part of a local file, 0 to 1, that is in the page cache, from a sample; 0 where nobody can say."""

    def nbytes(self) -> int: ...
    def sizes(self) -> list[int]:
        """Bytes of each tensor, in the order of names()."""
    def read(self, source: int) -> Reading: ...
    def park(self) -> None:
        """Closes the descriptors that the checkpoint keeps open."""

class Reading:
    """As long as it lives, others see that the file is read. shared: whether others read it, too, when it was made."""

    @property
    def shared(self) -> bool: ...

class HostTensor:
    """The bytes of one tensor; a writable buffer. The memory lives as long as any view of it."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def interpreter_ends() -> None:
    """From now on threads of the core leave alone what they own of Python's. Waits for those that drop something."""

def release_pinned_memory() -> None:
    """Unpins what no stream uses; does nothing where no device was used."""

def pinned_bytes() -> int: ...
def default_memory_limit() -> int:
    """Bytes, by what may be taken now; of a stream to host memory that is given no limit."""

class Device:
    """A device that tensors go to. vendor: "cuda" or "hip"; limit: bytes of device memory; dlpack: (type, index)."""

    def __init__(self, *, vendor: str, ordinal: int, limit: int, packed: bool, dlpack: tuple[int, int]) -> None: ...

class Stream:
    """A running load. `called` is a time.monotonic() that its seconds count from. Limits of 0 mean a default."""

    @staticmethod
    def start(
        checkpoint: Checkpoint,
        tensors: Sequence[int] | None,
        *,
        file_order: bool,
        memory_limit: int,
        concurrency: int,
        backend: str,
        called: float,
        device: Device | None = None,
        trace: bool = False,
    ) -> Stream: ...
    @staticmethod
    def start_parts(
        checkpoint: Checkpoint,
        parts: Sequence[tuple[int, int, int, Sequence[int]]],
        *,
        file_order: bool,
        memory_limit: int,
        concurrency: int,
        backend: str,
        called: float,
        device: Device | None = None,
    ) -> Stream:
        """Reads parts of tensors: (tensor, begin, end, shape), bytes [begin, end) handed out as a tensor of `shape`.

        They do not overlap. A part has its tensor's name: of several parts of one, `file_order` tells which comes.
        """

    def __len__(self) -> int: ...
    @overload
    def next_dlpack(self) -> list[tuple[str, Any, str | None]]: ...
    @overload
    def next_dlpack(self, wait: bool) -> list[tuple[str, Any, str | None]] | None:
        """Ready tensors as (name, DLPack capsule, dtype to view it as or None); empty at the end.

        None if there is nothing yet and `wait` is false.
        """

    def next_buffers(self) -> list[tuple[str, HostTensor, tuple[int, ...], str]]:
        """Ready tensors as (name, buffer, shape, dtype); empty at the end."""

    def on_device(self) -> bool:
        """Whether tensors come by next_device; otherwise they are in host memory, as for a single read."""

    def due(self, most_bytes: int) -> list[tuple[int, str | None, str | None, tuple[int, ...] | None]]:
        """What needs memory now: (bytes, name, dtype, shape) of a tensor, (bytes, None, None, None) of several."""

    def provide(self, memory: Sequence[Any], addresses: Sequence[int], allocated_on: int) -> None:
        """Memory for what due() said, in order, from the first on, and the handle of the stream it was allocated on.

        After an error it is not kept.
        """

    def outstanding(self) -> bool:
        """Whether anything that needs no more memory is still to be handed out: waiting brings it."""

    def next_device(self, wait: bool) -> list[tuple[str, Any, Any, str | None, tuple[int, ...] | None]] | None:
        """Ready tensors, of three kinds; empty at the end, None if there is nothing yet and `wait` is false.

        (name, memory, None, None, None); (name, None, DLPack capsule of a part of some memory, dtype to view it as or
        None, None); and of those without any bytes (name, None, None, dtype, shape).
        """

    def close(self) -> None: ...
    def stats(self) -> _Stats: ...
    def trace(self) -> list[tuple[str, str, float, float, int, int, int]]:
        """What it did when, if that was asked for: (kind, reader or tensor, begin, end, source, first, last byte)."""

    def reasons(self) -> list[tuple[int, str]]:
        """(source, why its reader was chosen)."""

    def not_pinned(self) -> tuple[str, str] | None:
        """(device, why copies to it start from memory that is not pinned), if they do."""

    def drain_log(self) -> list[tuple[int, str]]:
        """(level 0 debug, 1 info, 2 warning; line), since the last call."""
