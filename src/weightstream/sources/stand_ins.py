"""Local paths that stand for other sources, for programs that find their files by themselves and know local ones only.

While a path stands for a source, whoever names the path here reads the source: in the version, and by the credentials,
that it was found with.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .remote import Source

_sources: dict[str, Source] = {}


@contextmanager
def standing_in(sources: Mapping[str, Source]) -> Iterator[None]:
    """For as long as it is entered, each of these absolute paths stands for a source."""
    _sources.update(sources)
    try:
        yield
    finally:
        for path in sources:
            _sources.pop(path, None)


def source_of(path: str) -> Source | None:
    """What a path stands for; None for a path that is just that."""
    return _sources.get(os.path.abspath(path)) if _sources else None
