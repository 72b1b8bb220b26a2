"""The C++ core. Everything that takes time releases the GIL; next_dlpack and next_buffers let signals through."""

from collections.abc import Sequence
from typing import Any, TypedDict

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
    wait_consumer_seconds: float
    peak_host_bytes: int
    readers: dict[str, int]

class Checkpoint:
    """Sources with validated headers. Tensors are numbered in file order."""

    @staticmethod
    def open(paths: list[bytes], weight_map: Sequence[tuple[str, int]] | None) -> Checkpoint: ...
    def __len__(self) -> int: ...
    def names(self) -> list[str]: ...
    def find(self, name: str) -> int | None:
        """The number of the tensor called `name`."""

    def tensor(self, index: int) -> tuple[str, str, tuple[int, ...], int, int, int]:
        """(name, dtype, shape, source, begin, end), begin and end in bytes of the source."""

    def source(self, index: int) -> tuple[int, int, int]:
        """(size in bytes, tensors, bytes before the first tensor)."""

    def metadata(self, source: int) -> dict[str, str] | None: ...
    def nbytes(self) -> int: ...
    def park(self) -> None:
        """Closes the descriptors that the checkpoint keeps open."""

class HostTensor:
    """The bytes of one tensor; a writable buffer. The memory lives as long as any view of it."""

    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

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
    ) -> Stream: ...
    @staticmethod
    def start_part(
        checkpoint: Checkpoint,
        tensor: int,
        begin: int,
        end: int,
        shape: Sequence[int],
        *,
        memory_limit: int,
        concurrency: int,
        backend: str,
        called: float,
    ) -> Stream:
        """Reads bytes [begin, end) of one tensor, handed out as a tensor of `shape`."""

    def __len__(self) -> int: ...
    def next_dlpack(self) -> list[tuple[str, Any, str | None]]:
        """Ready tensors as (name, DLPack capsule, dtype to view it as or None); empty at the end."""

    def next_buffers(self) -> list[tuple[str, HostTensor, tuple[int, ...], str]]:
        """Ready tensors as (name, buffer, shape, dtype); empty at the end."""

    def close(self) -> None: ...
    def stats(self) -> _Stats: ...
    def reasons(self) -> list[tuple[int, str]]:
        """(source, why its reader was chosen)."""

    def drain_log(self) -> list[tuple[int, str]]:
        """(level 0 debug, 1 info, 2 warning; line), since the last call."""
