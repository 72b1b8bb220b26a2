"""The settings in the environment that count for this module: RUNAI_STREAMER_*, read when a stream starts."""

from __future__ import annotations

import os

from .._errors import ConfigError

MEMORY_LIMIT = "RUNAI_STREAMER_MEMORY_LIMIT"
CONCURRENCY = "RUNAI_STREAMER_CONCURRENCY"
DISTRIBUTED = "RUNAI_STREAMER_DIST"

_UNLIMITED = -1
_MOST_BYTES = 2**63 - 1  # more than there is
LEAST_BYTES = 1  # what the oldest tensor needs is granted whatever the limit is
LEAST_PINNED_BYTES = 16 << 20  # a read on its way to a GPU takes a slot of pinned memory: one is filled, one is copied
_MOST_READS = 1024


def memory_limit(given: int | None = None, least: int = LEAST_BYTES) -> int | None:
    """Bytes, as `weightstream.stream` takes them, of `given` or of the environment; None for its default.

    Of the values of Run:ai -1 is no limit, 0 as little as possible (one tensor at a time), and others are bytes, which
    count as `least` where they are fewer.

    Raises:
        ConfigError: not such a number.

    """
    limit = _number(MEMORY_LIMIT) if given is None else given
    if limit is None:
        return None
    if limit < _UNLIMITED:
        what = MEMORY_LIMIT if given is None else "memory_limit"
        raise ConfigError(f"{what}={limit} is neither bytes, nor 0 for the least, nor -1 for no limit")
    return _MOST_BYTES if limit == _UNLIMITED else min(max(limit, least), _MOST_BYTES)


def concurrency() -> int | None:
    """The most reads in flight, or connections; None for what pays.

    Raises:
        ConfigError: not a positive number.

    """
    number = _number(CONCURRENCY)
    if number is not None and number < 1:
        raise ConfigError(f"{CONCURRENCY}={number} must be 1 or more; leave it unset for what pays")
    return None if number is None else min(number, _MOST_READS)


def may_distribute() -> bool:
    """Whether RUNAI_STREAMER_DIST lets the ranks of a group share the reading.

    Raises:
        ConfigError: it is neither 0, 1 nor auto.

    """
    value = os.environ.get(DISTRIBUTED, "auto")
    if value not in ("0", "1", "auto"):
        raise ConfigError(f"{DISTRIBUTED}={value!r} is neither 0, 1 nor auto")
    return value != "0"


def switched(variable: str, default: bool) -> bool:
    """Whether a variable is 1 or true."""
    value = os.environ.get(variable)
    return default if not value else value.lower() in ("1", "true")


def _number(variable: str) -> int | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{variable}={text!r} is not a whole number") from None
