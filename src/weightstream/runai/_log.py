"""What the streamer logs, by the name and in the words that programs and people look for."""

from __future__ import annotations

import logging
import os
import sys

from .._version import __version__

# The name that configurations of the Run:ai package mention.
logger = logging.getLogger("runai_model_streamer")

_UNITS = ("KiB", "MiB", "GiB", "TiB")


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """Told from the handlers of others by its class."""


def configure() -> None:
    """Sets up the logger as RUNAI_STREAMER_LOG_LEVEL and RUNAI_STREAMER_LOG_TO_STDERR say. Idempotent.

    An unknown level counts as INFO: nobody's import should fail for it.
    """
    level = logging.getLevelName(os.environ.get("RUNAI_STREAMER_LOG_LEVEL", "INFO").upper())
    logger.setLevel(level if isinstance(level, int) else logging.INFO)
    if os.environ.get("RUNAI_STREAMER_LOG_TO_STDERR") == "1":
        if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
            handler = _StderrHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
            logger.addHandler(handler)
        logger.propagate = False  # else it would be there twice where the root has a handler, too


def throughput(nbytes: int, device: str, seconds: float) -> None:
    """The line at the end of a load."""
    rate = nbytes / seconds if seconds > 0 else 0
    logger.info(
        "[RunAI Streamer] Overall time to stream %s of all files to %s: %ss, %s/s (weightstream %s)",
        binary_size(nbytes),
        device,
        round(seconds, 2),
        binary_size(rate),
        __version__,
    )


def binary_size(count: float) -> str:
    """Bytes in a binary unit: 1536 are "1.5 KiB"."""
    if count < 1024:
        return f"{int(count)} Byte" + ("" if int(count) == 1 else "s")
    value, unit = count / 1024, 0
    while value >= 1023.95 and unit + 1 < len(_UNITS):
        value, unit = value / 1024, unit + 1
    return f"{value:.1f} {_UNITS[unit]}"
