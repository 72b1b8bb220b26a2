"""The package's logger, and what the core has to say there."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from ._core import Log

logger = logging.getLogger("weightstream")
_LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING)


def forward(lines: list[tuple[int, str]]) -> None:
    """Logs lines of the core."""
    for level, line in lines:
        logger.log(_LEVELS[level], "%s", line)


@contextmanager
def forwarding() -> Iterator[Log]:
    """A log for the core, whose lines come out at the end, also when that is an exception."""
    log = Log()
    try:
        yield log
    finally:
        forward(log.drain())
