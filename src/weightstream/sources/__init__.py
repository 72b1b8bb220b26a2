"""From a location to readable sources. What leaves here is plain: paths, and what an index says about them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

from .._errors import ConfigError, FormatError
from . import local

Location = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass
class Resolved:
    """The sources of a checkpoint.

    Attributes:
        paths: one local path per source, in the order in which they are streamed.
        weight_map: tensor name -> position in `paths`, as an index says; None without an index.

    """

    paths: list[str] = field(default_factory=list)
    weight_map: dict[str, int] | None = None


def resolve(location: Location, storage_options: Mapping[str, Any]) -> Resolved:
    """Finds the sources of `location`: a file, an index, a directory, a glob, or a sequence of these.

    Raises:
        NotFoundError: nothing is there.
        AuthError: a directory or an index may not be read.
        FormatError: an index that is not valid, or two that differ on a tensor.
        ConfigError: a location that cannot be resolved: an unknown scheme, an empty list, an ambiguous directory.

    """
    parts: Sequence[Any] = [location] if isinstance(location, (str, os.PathLike)) else location
    if not isinstance(parts, Sequence) or type(parts) in (bytes, bytearray):
        raise ConfigError(f"a location is a path or a sequence of paths, not {type(location).__name__}")
    if not parts:
        raise ConfigError("the location is an empty list; name at least one file")
    if storage_options:
        raise ConfigError(f"local files take no storage_options, but these were given: {', '.join(storage_options)}")

    resolved = Resolved()
    positions: dict[str, int] = {}
    for part in parts:
        found = local.resolve(_local_path(part))
        for path in found.paths:
            if path not in positions:
                positions[path] = len(resolved.paths)
                resolved.paths.append(path)
        if found.weight_map is not None:
            resolved.weight_map = resolved.weight_map or {}
            for name, shard in found.weight_map.items():
                if resolved.weight_map.setdefault(name, positions[shard]) != positions[shard]:
                    raise FormatError(f"tensor {name!r} is in two indexes, from different shards; load them one by one")
    return resolved


def _local_path(part: Any) -> str:
    if not isinstance(part, (str, os.PathLike)):
        raise ConfigError(f"a location is a path or a sequence of paths; {part!r} is neither")
    path = os.fspath(part)
    if not isinstance(path, str):
        path = os.fsdecode(path)
    if not path:
        raise ConfigError("the location is an empty string")
    if "\0" in path:
        raise ConfigError(f"a path must not contain a NUL character: {path!r}")
    if path.startswith("file://"):
        from urllib.parse import unquote, urlsplit

        url = urlsplit(path)
        if url.netloc not in ("", "localhost"):
            raise ConfigError(f"{path!r} names a file on another host; only file:///path works")
        return unquote(url.path)
    scheme = _SCHEME.match(path)
    if scheme and not os.path.exists(path):
        raise ConfigError(f"{scheme[0]} locations are not supported by this version; give a local path")
    return path
