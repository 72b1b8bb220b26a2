"""What the plug-ins of inference engines share: settings of the engine's configuration, the stream, its log lines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from .. import _config
from .._errors import ConfigError, DeviceError
from .._format import bytes_text, count_text, seconds_text
from .._stream import stream as start_stream
from .._version import __version__

if TYPE_CHECKING:
    import logging

    import torch

    from .._stream import StreamStats
    from ..sources import Location

# Of the keywords of `stream`, those that an engine may set: the others are the engine's own business.
KEYWORDS = ("backend", "concurrency", "device", "device_limit", "memory_limit", "storage_options")


class Bar(Protocol):
    """The part of a tqdm bar that is used here."""

    def update(self, n: int) -> object:
        """`n` more bytes."""

    def close(self) -> None:
        """Ends it."""


@dataclass(frozen=True)
class LoaderSettings:
    """What an engine's extra configuration of its loader says.

    Attributes:
        device: where the tensors go; None leaves that to the plug-in.
        keywords: of `stream`, those that were given, without `device` and `storage_options`.
        storage_options: for URLs; None if not given.

    """

    device: _config.Device | None = None
    keywords: Mapping[str, Any] = field(default_factory=dict)
    storage_options: Mapping[str, Any] | None = field(default=None, repr=False)  # may hold secrets

    @classmethod
    def of(cls, extra_config: Any, option: str) -> LoaderSettings:
        """The settings in `extra_config`, a mapping of `KEYWORDS`. `option` is what the engine's users call it.

        Raises:
            ConfigError: it is not a mapping, a key is unknown, or a value cannot work.

        """
        if not isinstance(extra_config, Mapping):
            raise ConfigError(f"{option} is a mapping, not a {type(extra_config).__name__}")
        unknown = [str(key) for key in extra_config if key not in KEYWORDS]
        if unknown:
            raise ConfigError(f"{option}: weightstream knows no {', '.join(unknown)}; it knows {', '.join(KEYWORDS)}")
        given = {key: value for key, value in extra_config.items() if value is not None}
        try:
            # Here and not when the first tensor is wanted, minutes later in some worker.
            _config.resolve(**given)
        except ConfigError as error:
            raise ConfigError(f"{option}: {error.message}") from None
        options = given.pop("storage_options", None)
        if options is not None and not isinstance(options, Mapping):
            raise ConfigError(f"{option}: storage_options is a mapping, not a {type(options).__name__}")
        return cls(given.pop("device", None), given, options)


def is_url(location: Location) -> bool:
    """Whether some of it is not a path of this machine."""
    parts = [location] if isinstance(location, (str, os.PathLike)) else location
    return any("://" in os.fspath(part) for part in parts)


def stream_weights(
    location: Location,
    settings: LoaderSettings,
    *,
    device: _config.Device,
    wanted: Callable[[str], bool] | None = None,
    logger: logging.Logger,
    bar: Callable[[int], Bar] | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a checkpoint, by name, with a log line before the first and one after the last.

    Where the engine keeps so many tensors that the device has no room for the next one, the rest goes to host memory.

    Args:
        location: as of `weightstream.stream`.
        settings: storage_options count for URLs only, so that one configuration serves both.
        device: where the tensors go.
        wanted: only the tensors whose names it accepts are read.
        logger: gets the lines.
        bar: makes a progress bar of so many bytes.

    Raises:
        WeightstreamError: as `weightstream.stream` and iteration raise it.

    """
    handed_out: set[str] = set()
    try:
        yield from _stream_to(device, location, settings, wanted, logger, bar, handed_out)
    except DeviceError as error:
        if not _is_out_of_memory(error):
            raise
        # As text: the error has the stream in its traceback, and with it memory of the device.
        logger.warning("weightstream streams the rest of the weights to host memory: %s", str(error))
    else:
        return

    def missing(name: str) -> bool:
        return name not in handed_out and (wanted is None or wanted(name))

    yield from _stream_to("cpu", location, settings, missing, logger, bar, set())


def _is_out_of_memory(error: DeviceError) -> bool:
    import torch

    return isinstance(error.__cause__, torch.cuda.OutOfMemoryError)


def _stream_to(
    device: _config.Device,
    location: Location,
    settings: LoaderSettings,
    wanted: Callable[[str], bool] | None,
    logger: logging.Logger,
    bar: Callable[[int], Bar] | None,
    handed_out: set[str],
) -> Iterator[tuple[str, torch.Tensor]]:
    called = time.monotonic()
    with start_stream(
        location,
        device=device,
        framework="pt",
        names=wanted,
        storage_options=settings.storage_options if is_url(location) else None,
        **settings.keywords,
    ) as stream:
        opened = time.monotonic() - called
        logger.info(
            "weightstream %s streams %s (%s) of %s to %s",
            __version__,
            count_text(len(stream), "tensor"),
            bytes_text(stream.nbytes),
            count_text(len(stream.checkpoint.paths), "file"),
            device,
        )
        shown = None if bar is None else bar(stream.nbytes)
        try:
            for name, tensor in stream:
                handed_out.add(name)
                if shown is not None:
                    shown.update(tensor.nbytes)
                yield name, tensor
                del tensor  # its memory may back the next one, which the next line waits for
        finally:
            if shown is not None:
                shown.close()
        stats = stream.stats
    logger.info(
        "weightstream loaded %s (%s) in %s: %.2f GB/s, bound by %s",
        count_text(stats.tensors, "tensor"),
        bytes_text(stats.bytes),
        seconds_text(stats.seconds),
        stats.gigabytes_per_second,
        bound_by(stats, opened),
    )


def bound_by(stats: StreamStats, opened: float = 0.0) -> str:
    """What the load took most of its time for, in words. `opened` is the seconds until its headers were read."""
    storage = stats.wait_storage_seconds + opened
    device = stats.wait_device_seconds
    engine = stats.seconds - storage - device  # what it did with the tensors that it was handed
    longest = max(storage, device, engine)
    return "the storage" if longest == storage else "copies to the device" if longest == device else "the engine"
