"""DistributedStreamer: the interface by which the ranks of a group would share the reading. Each reads by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from . import _environment
from ._log import logger
from .credentials import S3Credentials
from .file_streamer import FileChunks, FileStreamer

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self


def note_ranks(is_distributed: bool) -> None:
    """Warns where sharing is asked for and there is somebody to share with.

    Raises:
        ConfigError: RUNAI_STREAMER_DIST has a value that it does not take.

    """
    if not is_distributed or not _environment.may_distribute():
        return
    from torch import distributed

    if not distributed.is_available() or not distributed.is_initialized():
        return
    ranks = distributed.get_world_size()
    if ranks > 1:
        logger.warning(
            "[RunAI Streamer][Distributed] each of the %d ranks reads all of the files by itself, as weightstream does "
            "not share the reading between ranks. The tensors are the same; RUNAI_STREAMER_DIST=0 hides this line",
            ranks,
        )


class DistributedStreamer:
    """A FileStreamer with `is_distributed`, which changes nothing but for a warning where a group has several ranks.

    Every rank gets every range, as the contract has it: by reading it.

    Example:
        >>> with DistributedStreamer() as streamer:
        ...     streamer.stream_files([FileChunks(0, "model.bin", [0], [1024])], None, "cpu", is_distributed=True)
        ...     for id, index, buffer in streamer.get_chunks(): ...

    """

    def __init__(self) -> None:
        self.file_streamer = FileStreamer()
        self.is_distributed = False

    def __enter__(self) -> Self:
        self.file_streamer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.file_streamer.__exit__(kind, error, traceback)

    def credentials_for(self, given: S3Credentials | None) -> S3Credentials | None:
        """As FileStreamer.credentials_for."""
        return self.file_streamer.credentials_for(given)

    def stream_files(
        self,
        file_stream_requests: Sequence[FileChunks],
        credentials: S3Credentials | None,
        device: str | torch.device | None,
        is_distributed: bool,
        owned: bool = True,
    ) -> None:
        """As FileStreamer.stream_files."""
        note_ranks(is_distributed)
        self.file_streamer.stream_files(file_stream_requests, credentials, device, owned=owned)

    def get_chunks(self) -> Iterator[tuple[int, int, torch.Tensor]]:
        """As FileStreamer.get_chunks."""
        return self.file_streamer.get_chunks()

    def ring_info(self) -> tuple[int, int, int] | None:
        """None: there is no ring of buffers."""
        return None
