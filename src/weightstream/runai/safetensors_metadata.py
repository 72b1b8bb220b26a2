"""What the headers of safetensors files say, file by file, and tensors from the bytes of a range."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

from .. import Checkpoint, ConfigError, FormatError, TensorInfo
from .. import open as open_checkpoint
from ._errors import as_value_errors
from .credentials import S3Credentials, shown, storage_options

if TYPE_CHECKING:
    import torch

    from .distributed_streamer import DistributedStreamer
    from .file_streamer import FileStreamer


@dataclass(eq=False)
class Offsets:
    """Where a tensor lies: bytes after the header of its file."""

    start: int
    end: int

    def get_diff(self) -> int:
        """Bytes."""
        return self.end - self.start


@dataclass(eq=False)
class SafetensorMetadata:
    """What a header says of one tensor.

    Attributes:
        name: its name.
        shape: its dimensions, in elements.
        dtype: as the format calls it, "BF16" say.
        offsets: its bytes, counted from the end of the header.

    """

    name: str
    shape: list[int]
    dtype: str
    offsets: Offsets

    def get_bytesize(self) -> int:
        """Bytes of the tensor."""
        return self.offsets.get_diff()

    def get_item_count(self) -> int:
        """Elements."""
        return math.prod(self.shape)

    def get_torch_dtype(self) -> torch.dtype:
        """The dtype of torch.

        Raises:
            ConfigError: this torch has none for it.

        """
        from ..frameworks.torch_dtypes import torch_dtype

        return torch_dtype(self.dtype)

    def get_element_size(self) -> int:
        """Bytes of an element of the dtype of torch."""
        return self.get_torch_dtype().itemsize


@contextmanager
def opened(paths: Sequence[str], credentials: S3Credentials | None) -> Iterator[list[Checkpoint]]:
    """The files as one checkpoint, closed at the end of the block unless streams read it.

    One for each file where a name is in several, or a file is there twice: no checkpoint has two tensors of a name.

    Raises:
        WeightstreamError: what opening met.

    """
    checkpoints: list[Checkpoint] = []
    try:
        for checkpoint in _open(list(paths), storage_options(paths, credentials)):
            checkpoints.append(checkpoint)
        yield checkpoints
    finally:
        for checkpoint in checkpoints:
            checkpoint.close()


def _open(paths: list[str], options: dict[str, Any]) -> Iterator[Checkpoint]:
    together = _open_together(paths, options)
    if together is not None:
        yield together
        return
    for path in paths:
        alone = open_checkpoint(path, storage_options=options)
        yield alone
        if len(alone.paths) > 1:
            files = f"{len(alone.paths)} files; name each of them, as list_safetensors does"
            raise ConfigError(f"a path is one file, and this one stands for {files}", source=shown(path))


def _open_together(paths: list[str], options: dict[str, Any]) -> Checkpoint | None:
    """None where one has to look at each alone: two have a tensor of the same name, or are one file; one is damaged."""
    if not 0 < len(set(paths)) == len(paths):
        return None
    try:
        together = open_checkpoint(paths, storage_options=options)
    except FormatError:
        if len(paths) == 1:
            raise
        return None
    if len(together.paths) == len(paths):
        return together
    together.close()
    return None


class Headers:
    """What the headers of some checkpoints say, file by file. Made when it is asked for: most programs only count.

    Args:
        checkpoints: opened; they may be closed meanwhile.
        names: only these; None for all.

    """

    def __init__(self, checkpoints: Sequence[Checkpoint], names: frozenset[str] | None = None) -> None:
        self._checkpoints = checkpoints
        self._names = names
        self.sources = [source for checkpoint in checkpoints for source in checkpoint.sources]

    @cached_property
    def tensors(self) -> list[list[TensorInfo]]:
        """Those of each source, in file order."""
        found: list[list[TensorInfo]] = []
        for checkpoint in self._checkpoints:
            of_all = iter(checkpoint.values())  # of one source after the other
            for source in checkpoint.sources:
                of_source = islice(of_all, source.tensors)
                found.append([tensor for tensor in of_source if self._names is None or tensor.name in self._names])
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        if self._names is None:
            return sum(checkpoint.nbytes for checkpoint in self._checkpoints)
        return sum(tensor.nbytes for tensors in self.tensors for tensor in tensors)

    def metadata(self) -> dict[int, Sequence[SafetensorMetadata]]:
        """Position of the source -> its tensors."""
        return {position: _MetadataOf(self, position) for position in range(len(self.sources))}

    def count(self, position: int) -> int:
        """Tensors of a source."""
        return self.sources[position].tensors if self._names is None else len(self.tensors[position])


class _MetadataOf(Sequence[SafetensorMetadata]):
    """The tensors of one source."""

    def __init__(self, headers: Headers, position: int) -> None:
        self._headers = headers
        self._position = position

    @cached_property
    def _all(self) -> list[SafetensorMetadata]:
        header_bytes = self._headers.sources[self._position].header_bytes
        return [_metadata_of(tensor, header_bytes) for tensor in self._headers.tensors[self._position]]

    @overload
    def __getitem__(self, index: int) -> SafetensorMetadata: ...
    @overload
    def __getitem__(self, index: slice) -> list[SafetensorMetadata]: ...
    def __getitem__(self, index: int | slice) -> SafetensorMetadata | list[SafetensorMetadata]:
        return self._all[index]

    def __len__(self) -> int:
        return self._headers.count(self._position)

    def __repr__(self) -> str:
        return repr(self._all)


def _metadata_of(tensor: TensorInfo, header_bytes: int) -> SafetensorMetadata:
    begin, end = tensor.range
    offsets = Offsets(begin - header_bytes, end - header_bytes)
    return SafetensorMetadata(tensor.name, list(tensor.shape), tensor.dtype, offsets)


def prepare_request(
    fs: DistributedStreamer | FileStreamer, paths: list[str], s3_credentials: S3Credentials | None
) -> list[tuple[int, list[SafetensorMetadata], list[int]]]:
    """The headers of safetensors files, all read at once: what is to be asked of a FileStreamer for their tensors.

    Args:
        fs: the streamer that the ranges will be asked of. It has the credentials from here on.
        paths: files or objects.
        s3_credentials: for ``s3://`` paths.

    Returns:
        For each path (bytes before the first tensor, the tensors in file order, their sizes in bytes).

    Raises:
        ValueError: a file cannot be opened or is not valid; it is also an error of `weightstream`.

    Example:
        >>> with DistributedStreamer() as streamer:
        ...     (offset, tensors, sizes), = prepare_request(streamer, [path], None)
        ...     streamer.stream_files([FileChunks.contiguous(0, path, offset, sizes)], None, "cpu", False)
        ...     for _, index, buffer in streamer.get_chunks():
        ...         tensor = create_torch_tensor(buffer, tensors[index])

    """
    with as_value_errors(), opened(paths, fs.credentials_for(s3_credentials)) as checkpoints:
        headers = Headers(checkpoints)
        return [
            (source.header_bytes, list(metadata), [tensor.get_bytesize() for tensor in metadata])
            for source, metadata in zip(headers.sources, headers.metadata().values(), strict=True)
        ]


def requires_alignment_copy(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> bool:
    """Whether elements of the tensor's dtype may not be where the bytes are."""
    return buffer.numel() > 0 and buffer.data_ptr() % tensor_metadata.get_element_size() != 0


def create_torch_tensor(buffer: torch.Tensor, tensor_metadata: SafetensorMetadata) -> torch.Tensor:
    """The tensor whose bytes a FileStreamer brought. It shares their memory, unless they lie where its dtype cannot.

    Args:
        buffer: uint8, of any shape, as many as the tensor has bytes.
        tensor_metadata: what the header says of it.

    """
    from ..frameworks.torch_dtypes import tensor_like

    dtype, shape = tensor_like(tensor_metadata.dtype, tuple(tensor_metadata.shape))
    if requires_alignment_copy(buffer, tensor_metadata):
        buffer = buffer.clone()
    return buffer.reshape(-1).view(dtype).reshape(shape)
